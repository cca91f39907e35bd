// What the kernels ask of the hardware, and what they are given. No header is included, so that NVRTC needs none.
//
// The compiler defines, for each model: B and C, channels of the thin and of the merged maps (4 or 16, and 32);
// HC and SQ, channels that the attention weighs and squeezes to; STAGES; REBUILDS, whether there are F and M;
// LAYERS_W, LAYERS_H and LAYERS_F, 3x3 layers b -> b, and LAYERS_M, c -> c;
// FIRST_W, FIRST_H and FIRST_F, the side of a chain's first convolution, 1 or 3.
//
// Maps of several channels are float16 with the channels last, [height][width][channels]; maps of one are float32.

#ifndef EMULATED  // tests/engine/simt.h has the same for a CPU
typedef unsigned char u8;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define CONSTANT __host__ __device__ constexpr
#define KERNEL(name, threads, blocks, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args a) { __VA_ARGS__; }
#define GLOBAL(type, name) extern "C" __device__ type name
#define SHARED(name) extern __shared__ __align__(128) u8 name[]

// The two halves' float16, the first one in the low bits.
DEVICE unsigned pack(float low, float high) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

DEVICE float low_of(unsigned both) {
    float value;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(value) : "r"(both));
    return value;
}

DEVICE float high_of(unsigned both) {
    float value;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(value) : "r"(both));
    return value;
}

// Load a 16x16 matrix of float16, the left operand of `multiply`: each lane gives the address of 16 bytes, those of
// row lane % 16, columns 0-7 (lanes below 16) or 8-15.
DEVICE void load_rows(unsigned (&a)[4], const u8* row) {
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(at));
}

// c += a b, 16x16 by 16x8. Lane 4 g + t has of c the rows g and g + 8, columns 2 t and 2 t + 1; of b the rows 2 t,
// 2 t + 1 (b0), 2 t + 8, 2 t + 9 (b1), column g.
DEVICE void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Bring 128 bytes nearer, that will be read later.
DEVICE void fetch(const void* at) { asm volatile("prefetch.global.L1 [%0];" ::"l"(at)); }

// A kernel may be started before the one before it has ended: this waits until that one has, and its memory can be read.
// Then the next one may be started.
DEVICE void wait_for_the_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

DEVICE float from_lane(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE void add_to(u64* sum, long long value) { atomicAdd(sum, (u64)value); }
DEVICE long long read_sum(const u64* sum) { return (long long)*(const volatile u64*)sum; }
DEVICE int count_up(int* counter) { return atomicAdd(counter, 1); }
#endif

constexpr int TW = 32, TH = 16;              // the tile of a block
constexpr int CHAIN_THREADS = 512, MERGE_THREADS = 256;  // of a block
constexpr int CHAIN_BLOCKS = B == 4 ? 2 : 1, MERGE_BLOCKS = 2;  // of a multiprocessor, at least
constexpr float FIXED = 1048576.f;           // sums over a frame are whole numbers of 1 / FIXED: the order of adding
                                             // them does not change them
CONSTANT int larger(int a, int b) { return a > b ? a : b; }
constexpr int LAYER_W = LAYERS_W, LAYER_H = LAYERS_H, LAYER_F = LAYERS_F;

// What one launch gets; the same in engine/cuda_plan.py. A pointer that is null is a map of zeros that is not
// read, or one that nobody wants. The grid is tiles across, tiles down, frames.
struct Args {
    const u8* frames;      // [n][h][w] or [n][h][w][2]
    const float* window;   // [n][2]
    u8* targets;           // [n][h][w]
    float* x;              // D - T - N, of this stage
    float* t;              // T; the kernel that ends H replaces it
    float* n;              // N; the first kernel of M replaces it
    float* y;              // T + D - B - N
    float* q;              // N + D - B
    float* back;           // B
    float* z;              // N + D - B - T
    float* r;              // B + T
    const u8* maps_in;     // the map whose tail is the start of this kernel
    u8* maps_out;          // the map that this kernel makes
    const uint2* tail_in;  // of each frame: the weights of that tail, as `project` wants them
    const float* rim_in;   // of each frame: the same for pixels at the frame's border, as `mend_rim` wants them
    uint2* tail_out;       // the same of the map that this kernel makes
    float* rim_out;
    u64* sums;             // of each frame: [9 or 1][channels], zero at the start
    int* done;             // of each frame: blocks that are done, zero at the start
    const u8* first;       // weights of the chain's, or of M's, first convolution
    const float* first_bias;
    const u8* layers;      // of each 3x3 layer
    const float* layer_bias;
    const float* head;     // expand, squeeze, excite and project: see attention.cuh
    float gain;            // epsilon or sigma of the tail
    float bias;            // of the tail
    int height, width;
    int bits;
};

DEVICE int threads() { return blockDim.x; }
DEVICE int warps() { return blockDim.x >> 5; }
DEVICE int lane_of() { return threadIdx.x & 31; }
DEVICE int warp_of() { return threadIdx.x >> 5; }
DEVICE float limited(float value) { return fminf(fmaxf(value, -65504.f), 65504.f); }

// The frame of a block, and the pixel at its tile's corner.
struct Place {
    int frame, y, x, height, width;

    DEVICE bool inside(int row, int column) const {
        return (unsigned)(y + row) < (unsigned)height && (unsigned)(x + column) < (unsigned)width;
    }
    // The place in a map of one channel a pixel of the tile, which must be inside of the frame.
    DEVICE size_t at(int row, int column) const {
        return ((size_t)frame * height + (y + row)) * width + (x + column);
    }
};

DEVICE Place place_of(const Args& a) {
    return {(int)blockIdx.z, (int)blockIdx.y * TH, (int)blockIdx.x * TW, a.height, a.width};
}
