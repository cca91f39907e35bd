// Runs CUDA kernels on a CPU: what engine/kernels/warp.cuh gets of a GPU, for x86-64 and g++.
//
// The threads of a block are fibers on one thread of the CPU. A warp's collective operation happens when its last lane has
// come to it, a barrier when the block's last thread has. Shared memory starts as NaN; writes before and after it are
// seen, and of a build with -fsanitize=address reads too, for there it is a block of its very size. Warps run in the order
// of their numbers or, on demand, in the reverse one: where the answers differ, a barrier is missing.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EMULATED
#define DEVICE inline
#define CONSTANT constexpr
#define GLOBAL(type, name) \
    extern "C" __attribute__((visibility("default"))) type name; \
    type name
#define __launch_bounds__(n)

typedef unsigned char u8;
typedef unsigned long long u64;
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline long long __float2ll_rn(float value) { return llrintf(value); }

namespace simt {

constexpr int MOST = 512, WARP = 32, STACK = 64 << 10, GUARD = 4096;

struct Index { unsigned x, y, z; };

struct Fiber {
    void* stack;
    Index index;
    bool at_barrier, ended;
};

struct Warp {
    int arrived = 0;
    unsigned generation = 0;
    alignas(32) float numbers[WARP][4];
    unsigned left[WARP][4], right[WARP][2];
    const u8* rows[WARP];
};

inline Fiber fibers[MOST];
inline Fiber* lane;
inline Warp warps[MOST / WARP];
inline void* scheduler;
inline int at_barrier, shared_bytes, BLOCK;
inline Index block, grid, block_size;
inline std::vector<u8> memory(GUARD + (256 << 10) + GUARD + 128);
inline u8* shared;
inline const void* arguments;
inline void (*kernel)(const void*);
inline std::string said;

extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
simt_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

inline void leave() { simt_switch(&lane->stack, scheduler); }

inline void start() {
    kernel(arguments);
    lane->ended = true;
    leave();
    abort();
}

inline void complain(const char* what) {
    if (said.empty()) said = what;
}

// Wait for the warp's other lanes; the last one runs `work`.
template <class Work>
inline void together(Work work) {
    Warp& warp = warps[lane->index.x / WARP];
    unsigned generation = warp.generation;
    if (++warp.arrived == WARP) {
        work(warp);
        warp.arrived = 0, ++warp.generation;
        return;
    }
    while (warp.generation == generation) leave();
}

inline void barrier() {
    lane->at_barrier = true;
    ++at_barrier;
    while (lane->at_barrier) leave();
}

inline float from_half(unsigned bits) { return _cvtsh_ss((unsigned short)bits); }

// Run one block; false if it cannot end.
inline bool run_block(bool backwards) {
    static std::vector<u8> stacks((size_t)MOST * STACK + 64);
    for (int i = 0; i < BLOCK; ++i) {
        uintptr_t top = ((uintptr_t)stacks.data() + (size_t)(i + 1) * STACK) & ~(uintptr_t)63;
        void** at = (void**)top - 1;  // as after a call: the stack is 8 bytes from a multiple of 16
        *--at = (void*)start;
        at -= 6;
        fibers[i] = {at, {(unsigned)i, 0, 0}, false, false};
    }
    for (Warp& warp : warps) warp.arrived = 0;
    at_barrier = 0;
    int ended = 0;
    while (ended < BLOCK) {
        bool moved = false;
        for (int w = 0; w < BLOCK / WARP; ++w) {
            Fiber* mine = fibers + (backwards ? BLOCK / WARP - 1 - w : w) * WARP;
            for (bool any = true; any;) {
                any = false;
                unsigned before = warps[mine->index.x / WARP].generation;
                int arrived = warps[mine->index.x / WARP].arrived;
                for (int i = 0; i < WARP; ++i) {
                    if (mine[i].ended || mine[i].at_barrier) continue;
                    lane = mine + i;
                    simt_switch(&scheduler, lane->stack);
                    ended += lane->ended;
                    any |= lane->ended || lane->at_barrier;
                }
                Warp& warp = warps[mine->index.x / WARP];
                any |= warp.generation != before || warp.arrived != arrived;
                moved |= any;
            }
        }
        if (at_barrier && at_barrier + ended == BLOCK) {
            if (ended) complain("a barrier that not all threads come to");
            at_barrier = 0, moved = true;
            for (Fiber& fiber : fibers) fiber.at_barrier = false;
        }
        if (!moved) return complain("a block that cannot go on: lanes of a warp wait for different things"), false;
    }
    return true;
}

inline std::map<std::string, void (*)(const void*)>& kernels() {
    static std::map<std::string, void (*)(const void*)> all;
    return all;
}

struct Entry {
    Entry(const char* name, void (*body)(const void*)) { kernels()[name] = body; }
};

}  // namespace simt

#define threadIdx (simt::lane->index)
#define blockIdx simt::block
#define gridDim simt::grid
#define blockDim simt::block_size
#define KERNEL(name, threads, blocks, ...)                                      \
    static void name##_body(const Args& a) { __VA_ARGS__; }      \
    static simt::Entry name##_entry(#name, [](const void* a) { name##_body(*(const Args*)a); });
#define SHARED(name) u8* name = simt::shared

static inline void __syncthreads() { simt::barrier(); }
static inline void __threadfence() {}

static inline unsigned pack(float low, float high) {
    return (unsigned)_cvtss_sh(low, 0) | (unsigned)_cvtss_sh(high, 0) << 16;
}
static inline float low_of(unsigned both) { return simt::from_half(both & 0xffff); }
static inline float high_of(unsigned both) { return simt::from_half(both >> 16); }

static inline float from_lane(float value, int mask) {
    int mine = simt::lane->index.x % simt::WARP;
    simt::Warp& warp = simt::warps[simt::lane->index.x / simt::WARP];
    warp.numbers[mine][0] = value;
    float other = 0;
    simt::together([](simt::Warp& all) {
        for (int i = 0; i < simt::WARP; ++i) all.numbers[i][1] = all.numbers[i][0];
    });
    other = warp.numbers[mine ^ mask][1];
    return other;
}

static inline void load_rows(unsigned (&a)[4], const u8* row) {
    int mine = simt::lane->index.x % simt::WARP;
    simt::Warp& warp = simt::warps[simt::lane->index.x / simt::WARP];
    if ((uintptr_t)row % 16) simt::complain("rows that do not start at a multiple of 16 bytes");
    if (row < simt::shared || row + 16 > simt::shared + simt::shared_bytes) {
        simt::complain("rows outside of shared memory");
        row = simt::shared;
    }
    warp.rows[mine] = row;
    simt::together([](simt::Warp& all) {
        for (int i = 0; i < simt::WARP; ++i)
            for (int part = 0; part < 4; ++part)
                memcpy(&all.left[i][part], all.rows[part * 8 + i / 4] + i % 4 * 4, 4);
    });
    memcpy(a, warp.left[mine], 16);
}

static inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    int mine = simt::lane->index.x % simt::WARP;
    simt::Warp& warp = simt::warps[simt::lane->index.x / simt::WARP];
    memcpy(warp.numbers[mine], c, 16), memcpy(warp.left[mine], a, 16);
    warp.right[mine][0] = b0, warp.right[mine][1] = b1;
    simt::together([](simt::Warp& all) {
        alignas(32) float left[16][16], right[16][8], made[16][8];
        for (int i = 0; i < simt::WARP; ++i) {
            int g = i / 4, t = i % 4;
            for (int part = 0; part < 4; ++part) {
                float* to = &left[g + part % 2 * 8][2 * t + part / 2 * 8];
                to[0] = low_of(all.left[i][part]), to[1] = high_of(all.left[i][part]);
            }
            for (int part = 0; part < 2; ++part) {
                right[2 * t + part * 8][g] = low_of(all.right[i][part]);
                right[2 * t + part * 8 + 1][g] = high_of(all.right[i][part]);
            }
            for (int k = 0; k < 4; ++k) made[g + k / 2 * 8][2 * t + k % 2] = all.numbers[i][k];
        }
        for (int m = 0; m < 16; ++m)
            for (int k = 0; k < 16; ++k)
                for (int n = 0; n < 8; ++n) made[m][n] += left[m][k] * right[k][n];
        for (int i = 0; i < simt::WARP; ++i)
            for (int k = 0; k < 4; ++k) all.numbers[i][k] = made[i / 4 + k / 2 * 8][i % 4 * 2 + k % 2];
    });
    memcpy(c, warp.numbers[mine], 16);
}

#ifdef __SANITIZE_ADDRESS__
static inline void fetch(const void* at) { (void)*(const volatile u8*)at; }  // outside of a map it would be of no use
#else
static inline void fetch(const void*) {}
#endif
static inline void wait_for_the_kernel_before() {}
static inline void add_to(u64* sum, long long value) { *sum += (u64)value; }
static inline long long read_sum(const u64* sum) { return (long long)*sum; }
static inline int count_up(int* counter) { return (*counter)++; }

// Run a kernel over a grid. Returns what was wrong, or an empty text.
extern "C" __attribute__((visibility("default"))) const char* simt_run(const char* name, const unsigned* grid, unsigned threads, unsigned shared,
                                                                       const void* args, int backwards) {
    using namespace simt;
    said.clear();
    BLOCK = (int)threads, block_size = {threads, 1, 1};
    auto found = kernels().find(name);
    if (found == kernels().end()) return "no such kernel";
    kernel = found->second, arguments = args, shared_bytes = (int)shared, simt::grid = {grid[0], grid[1], grid[2]};
#ifdef __SANITIZE_ADDRESS__
    void* exact = nullptr;
    if (posix_memalign(&exact, 128, shared)) return "no memory";
    simt::shared = (u8*)exact;
#else
    simt::shared = (u8*)(((uintptr_t)memory.data() + GUARD + 127) & ~(uintptr_t)127);
#endif
    unsigned count = grid[0] * grid[1] * grid[2];
    for (unsigned i = 0; i < count && said.empty(); ++i) {
        unsigned at = backwards ? count - 1 - i : i;
        block = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1]};
        memset(memory.data(), 0xff, memory.size());
        memset(simt::shared, 0xff, shared);
        if (!run_block(backwards)) break;
        for (u8* guard = memory.data(); guard < memory.data() + memory.size(); ++guard)
            if (*guard != 0xff && (guard < simt::shared || guard >= simt::shared + shared))
                complain("a write outside of shared memory");
    }
#ifdef __SANITIZE_ADDRESS__
    free(exact);
#endif
    return said.c_str();
}
