// M: 1 -> c -> ... -> c, a kernel a 3x3 layer c -> c; the first one starts with the end of F, which is N, and with 1 -> c.
// What follows of M, weigh and project, is the start of the next stage's W.

constexpr int PITCH_M = up_to(TW + 2, 8);  // so that `at` turns the chunks of all rows alike
constexpr int MAP_M = PITCH_M * (TH + 2) * C * 2, WEIGHTS_M = 9 * C * C * 2;
constexpr int W_S = TW + 4, H_S = TH + 4;  // of the map that 1 -> c reads
constexpr int TAIL_M = (W_S + 4) * (up_to(H_S, 4) + 4) * B * 2;
constexpr int BYTES_M = larger(MAP_M, TAIL_M) + WEIGHTS_M + W_S * H_S * 4;

// B + T + N, of the tile and two pixels around it.
DEVICE void start_merge(u8* map, float* s, const Args& a, const Place& p) {
    load_map<B, 4, W_S + 4, H_S + 4, up_to(H_S, 4) + 4, W_S + 4>(map, a.maps_in, p);
    __syncthreads();
    project<B, 2, W_S, H_S>(map, a.tail_in + (size_t)p.frame * Window<B, 2>::STEPS * 32, s);
    __syncthreads();
    mend_rim<W_S, H_S, 2>(map, a.rim_in + (size_t)p.frame * 16 * (25 * B + 1), s, p);
    __syncthreads();
    for (int i = threadIdx.x; i < W_S * H_S; i += threads()) {
        int row = i / W_S - 2, column = i % W_S - 2;
        float sum = 0.f;
        if (p.inside(row, column)) {
            size_t at = p.at(row, column);
            float n = a.z[at] - a.gain * (s[i] + a.bias);
            sum = a.r[at] + n;
            if (a.n && (unsigned)row < TH && (unsigned)column < TW) a.n[at] = n;
        }
        s[i] = sum;
    }
    __syncthreads();
    first_3x3<C, TW + 2, TH + 2, PITCH_M, 1>(s, a.first, a.first_bias, map, p);
}

// A warp computes 16 columns by 4 rows of pixels: of each row of the map it loads once what three rows of answers need.
template <bool FIRST, bool LAST>
DEVICE void merge(const Args& a) {
    SHARED(memory);
    u8 *map = memory, *weights = map + larger(MAP_M, TAIL_M);
    Place p = place_of(a);
    for (int i = threadIdx.x; i < WEIGHTS_M / 16; i += threads()) ((uint4*)weights)[i] = ((const uint4*)a.layers)[i];
    if constexpr (LAST) fetch_head(a.head, MERGED_HEAD);
    wait_for_the_kernel_before();
    if constexpr (FIRST) fetch_map<2>(a.z, p), fetch_map<2>(a.r, p);
    if constexpr (FIRST)
        start_merge(map, (float*)(weights + WEIGHTS_M), a, p);
    else
        load_map<C, 1, TW + 2, TH + 2, TH + 2, PITCH_M>(map, a.maps_in, p);
    __syncthreads();

    constexpr int TILES = Columns<C>::TILES, EACH = Columns<C>::EACH, CHUNKS = C / 16;
    int lane = lane_of(), g = lane / 4, t = lane % 4, column = warp_of() % 2 * 16, row = warp_of() / 2 * 4;
    float c[4][TILES][4];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        float bias = a.layer_bias[t * EACH + i];
#pragma unroll
        for (int k = 0; k < 8; ++k) c[k / 2][i / 2][k % 2 * 2 + i % 2] = bias;
    }
#pragma unroll 1
    for (int dx = 0; dx < 3; ++dx)
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            uint4 w[3][TILES / 2];
#pragma unroll
            for (int dy = 0; dy < 3; ++dy)
#pragma unroll
                for (int j = 0; j < TILES / 2; ++j)
                    w[dy][j] = ((const uint4*)weights)[(((dy * 3 + dx) * CHUNKS + chunk) * (TILES / 2) + j) * 32 + lane];
            const u8* from = map + at<C>(row * PITCH_M + column + dx + (lane & 15), chunk * 2 + (lane >> 4));
#pragma unroll
            for (int y = 0; y < 6; ++y) {
                unsigned m[4];
                load_rows(m, from + y * PITCH_M * C * 2);
#pragma unroll
                for (int dy = 0; dy < 3; ++dy)
                    if (y - dy >= 0 && y - dy < 4)
#pragma unroll
                        for (int j = 0; j < TILES; ++j) {
                            uint4 v = w[dy][j / 2];
                            multiply(c[y - dy][j], m, j % 2 ? v.z : v.x, j % 2 ? v.w : v.y);
                        }
            }
        }

    float sum[EACH] = {};
#pragma unroll
    for (int y = 0; y < 4; ++y)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int x = column + g + 8 * half;
            if (!p.inside(row + y, x)) continue;
            unsigned v[EACH / 2];
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                float v0 = limited(fmaxf(c[y][j][2 * half], 0.f)), v1 = limited(fmaxf(c[y][j][2 * half + 1], 0.f));
                v[j] = pack(v0, v1);
                if constexpr (LAST) sum[2 * j] += v0, sum[2 * j + 1] += v1;
            }
            uint4* to = (uint4*)(a.maps_out + p.at(row + y, x) * C * 2) + t * (TILES / 4);
#pragma unroll
            for (int j = 0; j < TILES / 4; ++j) to[j] = make_uint4(v[4 * j], v[4 * j + 1], v[4 * j + 2], v[4 * j + 3]);
        }
    if constexpr (LAST) {
        float* scratch = (float*)memory;  // [warps][C]
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            for (int mask = 4; mask < 32; mask <<= 1) sum[i] += from_lane(sum[i], mask);
            if (g == 0) scratch[warp_of() * C + t * EACH + i] = sum[i];
        }
        __syncthreads();
        if (threadIdx.x < C) {
            float total = 0.f;
            for (int warp = 0; warp < warps(); ++warp) total += scratch[warp * C + threadIdx.x];
            add_to(a.sums + (size_t)p.frame * C + threadIdx.x, __float2ll_rn(total * FIXED));
        }
        if (is_last(a, p, (int*)scratch + warps() * C)) make_merged_tail(scratch + warps() * C + 4, a, p);
    }
}

#if REBUILDS && LAYERS_M == 1
KERNEL(merge_only, MERGE_THREADS, MERGE_BLOCKS, (merge<true, true>(a)))
#endif
#if REBUILDS && LAYERS_M > 1
KERNEL(merge_first, MERGE_THREADS, MERGE_BLOCKS, (merge<true, false>(a)))
KERNEL(merge_last, MERGE_THREADS, MERGE_BLOCKS, (merge<false, true>(a)))
#endif
#if REBUILDS && LAYERS_M > 2
KERNEL(merge_next, MERGE_THREADS, MERGE_BLOCKS, (merge<false, false>(a)))
#endif

// What each kernel needs of shared memory, in the order of KERNELS in engine/cuda_plan.py.
GLOBAL(int, shared_bytes[]) = {
    Layout<FRAME, LAYER_W, FIRST_W>::BYTES,
    Layout<BACKGROUND, LAYER_W, FIRST_W>::BYTES,
    Layout<AGAIN, LAYER_W, FIRST_W>::BYTES,
    Layout<TARGET, LAYER_H, FIRST_H>::BYTES,
    Layout<NOISE, LAYER_F, FIRST_F>::BYTES,
    TW * TH * 4 + (TW + 4) * (TH + 4) * B * 2,
    BYTES_M,
    BYTES_M,
    BYTES_M,
    BYTES_M,
};
