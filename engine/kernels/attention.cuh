// The attention: what of a map is summed over the frame, and what the last block of a frame makes of the sums, which is the
// weights of the map's tail. All of it in float32.
//
// The floats of `head`: squeeze [SQ][HC] and bias [SQ]; excite [HC][SQ] and bias [HC]; project [HC][9]; and of a chain
// expand [HC][B][9] and bias [HC].
constexpr int SQUEEZE = 0, SQUEEZE_BIAS = SQUEEZE + SQ * HC, EXCITE = SQUEEZE_BIAS + SQ, EXCITE_BIAS = EXCITE + HC * SQ;
constexpr int PROJECT = EXCITE_BIAS + HC, EXPAND = PROJECT + HC * 9, EXPAND_BIAS = EXPAND + HC * B * 9;

constexpr int CHAIN_HEAD = EXPAND_BIAS + HC, MERGED_HEAD = EXPAND;

// Fetch what the last block of a frame will need; no block knows yet whether it is the one.
DEVICE void fetch_head(const float* head, int count) {
    for (int i = threadIdx.x * 32; i < count; i += threads() * 32) fetch(head + i);
}

// Add a warp's values of CH channels to sums of the frame.
template <int CH>
DEVICE void add_warp(float (&v)[CH], u64* sums) {
#pragma unroll
    for (int i = 0; i < CH; ++i)
#pragma unroll
        for (int mask = 16; mask; mask >>= 1) v[i] += from_lane(v[i], mask);
    if (lane_of() == 0)
#pragma unroll
        for (int i = 0; i < CH; ++i) add_to(sums + i, __float2ll_rn(v[i] * FIXED));
}

// Write a tile W x H of a thin map to device memory, and add to the frame's sums, [9][B]: all pixels, the first row, the last
// row, the first column, the last column, and the four corners. `scratch` has room for [warps][B].
DEVICE void write_thin(const u8* map, float* scratch, const Args& a, const Place& p) {
    u64* sums = a.sums + (size_t)p.frame * 9 * B;
    float sum[B] = {};
#pragma unroll
    for (int i = threadIdx.x; i < TW * TH; i += threads()) {
        int row = i / TW, column = i % TW;
        if (!p.inside(row, column)) continue;
        u8* to = a.maps_out + p.at(row, column) * B * 2;
#pragma unroll
        for (int part = 0; part < B / 4; ++part) {
            uint2 v = *(const uint2*)(map + at<B>(i, part / 2) + part % 2 * 8);
            ((uint2*)to)[part] = v;
            sum[part * 4] += low_of(v.x), sum[part * 4 + 1] += high_of(v.x);
            sum[part * 4 + 2] += low_of(v.y), sum[part * 4 + 3] += high_of(v.y);
        }
    }
#pragma unroll
    for (int i = 0; i < B; ++i) {
#pragma unroll
        for (int mask = 16; mask; mask >>= 1) sum[i] += from_lane(sum[i], mask);
        if (lane_of() == 0) scratch[warp_of() * B + i] = sum[i];
    }
    // Each of eight warps has one of the other eight.
    int kind = warp_of() + 1, bottom = p.height - 1 - p.y, right = p.width - 1 - p.x;
    bool row = kind < 3 || kind > 4, column = kind > 2;
    int y = kind == 1 || kind == 5 || kind == 6 ? -p.y : bottom, x = kind == 3 || kind == 5 || kind == 7 ? -p.x : right;
    if (kind < 9 && (!row || (unsigned)y < TH) && (!column || (unsigned)x < TW)) {
        float edge[B] = {};
        int lane = lane_of();
        if (!row) y = lane;
        if (!column) x = lane;
        if ((row && column ? lane == 0 : lane < (row ? TW : TH)) && p.inside(y, x))
#pragma unroll
            for (int part = 0; part < B / 4; ++part) {
                uint2 v = *(const uint2*)(map + at<B>(y * TW + x, part / 2) + part % 2 * 8);
                edge[part * 4] = low_of(v.x), edge[part * 4 + 1] = high_of(v.x);
                edge[part * 4 + 2] = low_of(v.y), edge[part * 4 + 3] = high_of(v.y);
            }
        add_warp<B>(edge, sums + kind * B);
    }
    __syncthreads();
    if (threadIdx.x < B) {
        float total = 0.f;
        for (int warp = 0; warp < warps(); ++warp) total += scratch[warp * B + threadIdx.x];
        add_to(sums + threadIdx.x, __float2ll_rn(total * FIXED));
    }
}

// Tell whether this block is the frame's last one; all the others' sums can be read then. `flag` is one int of shared
// memory.
DEVICE bool is_last(const Args& a, const Place& p, int* flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *flag = count_up(a.done + p.frame) == (int)(gridDim.x * gridDim.y) - 1;
    __syncthreads();
    __threadfence();
    return *flag;
}

// Make scales [HC] of means [HC], both in shared memory.
DEVICE void attend(const float* head, const float* mean, float* squeezed, float* scale) {
    if (warp_of() < SQ) {
        float sum = 0.f;
        for (int c = lane_of(); c < HC; c += 32) sum += head[SQUEEZE + warp_of() * HC + c] * mean[c];
#pragma unroll
        for (int mask = 16; mask; mask >>= 1) sum += from_lane(sum, mask);
        if (lane_of() == 0) squeezed[warp_of()] = fmaxf(sum + head[SQUEEZE_BIAS + warp_of()], 0.f);
    }
    __syncthreads();
    if (threadIdx.x < HC) {
        float sum = head[EXCITE_BIAS + threadIdx.x];
#pragma unroll
        for (int s = 0; s < SQ; ++s) sum += head[EXCITE + threadIdx.x * SQ + s] * squeezed[s];
        scale[threadIdx.x] = 1.f / (1.f + expf(-sum));
    }
    __syncthreads();
}

// Spread the weights [2 R + 1][2 R + 1][CH] of a tail over the columns that `project` wants.
template <int CH, int R>
DEVICE void spread(const float* weights, uint2* out) {
    typedef Window<CH, R> V;
    for (int i = threadIdx.x; i < V::STEPS * 32; i += threads()) {
        int step = i / 32, lane = i % 32;
        float v[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            int row, column, channel;
            V::split(step, lane % 4 * 2 + k % 2 + k / 2 * 8, lane / 4, row, column, channel);
            bool seen = (unsigned)row <= 2 * R && (unsigned)column <= 2 * R;
            v[k] = seen ? limited(weights[(row * (2 * R + 1) + column) * CH + channel]) : 0.f;
        }
        out[i] = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
    }
}

// The weights of a chain's tail, for one frame: expand (3x3, b -> c), scale, project (3x3, c -> 1), of which only the scales
// depend on the frame. Shared memory: 9 B + 2 HC + SQ + 9 HC + 81 B + 9 + 25 B floats.
DEVICE void make_thin_tail(float* shared, const Args& a, const Place& p) {
    float *shifted = shared, *mean = shifted + 9 * B, *scale = mean + HC, *squeezed = scale + HC;
    float *taps = squeezed + SQ, *each = taps + 9 * HC, *each_bias = each + 81 * B, *whole = each_bias + 9;
    const u64* sums = a.sums + (size_t)p.frame * 9 * B;
    // The sums of the map moved by each tap: all of it but the row and the column that move out of the frame.
    for (int i = threadIdx.x; i < 9 * B; i += threads()) {
        int channel = i / 9, row = i % 9 / 3, column = i % 3;
        long long sum = read_sum(sums + channel);
        if (row != 1) sum -= read_sum(sums + (row == 2 ? 1 : 2) * B + channel);
        if (column != 1) sum -= read_sum(sums + (column == 2 ? 3 : 4) * B + channel);
        if (row != 1 && column != 1) sum += read_sum(sums + (5 + (row == 0) * 2 + (column == 0)) * B + channel);
        shifted[i] = (float)((double)sum / ((double)FIXED * p.height * p.width));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < up_to(HC * 8, 32); i += threads()) {  // 8 lanes a channel
        int channel = min(i / 8, HC - 1);
        float sum = 0.f;
        for (int k = i % 8; k < 9 * B; k += 8) sum += a.head[EXPAND + channel * 9 * B + k] * shifted[k];
        for (int mask = 4; mask; mask >>= 1) sum += from_lane(sum, mask);
        if (i % 8 == 0) mean[channel] = sum + a.head[EXPAND_BIAS + channel];
    }
    __syncthreads();
    attend(a.head, mean, squeezed, scale);
    for (int i = threadIdx.x; i < 9 * HC; i += threads()) taps[i] = a.head[PROJECT + i] * scale[i / 9];
    __syncthreads();
    // A map for each tap of the projection: 3x3, b -> 9.
    for (int i = threadIdx.x; i < 81 * B + 9; i += threads()) {
        bool bias = i >= 81 * B;
        int tap = bias ? i - 81 * B : i / (9 * B), k = i % (9 * B);
        const float* w = a.head + (bias ? EXPAND_BIAS : EXPAND + k);
        float sum = 0.f;
#pragma unroll 16
        for (int c = 0; c < HC; ++c) sum += taps[c * 9 + tap] * w[bias ? c : c * 9 * B];
        each[i] = sum;
    }
    __syncthreads();
    // Their shifted sum is one convolution of 5x5. At the border some of the nine maps are outside of the frame, zero.
    float* rim = a.rim_out + (size_t)p.frame * 16 * (25 * B + 1);
    int sides = p.height > 1 && p.width > 1 ? 3 : 4;  // none, above, below, and of a single row both
    for (int place = threadIdx.x; place < sides * sides * (25 * B + 1); place += threads()) {
        int which = place / (25 * B + 1), i = place % (25 * B + 1), down = which / sides, across = which % sides;
        int y = i / B / 5, x = i / B % 5, channel = i % B;
        float sum = 0.f;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
            int row = tap / 3, column = tap % 3;
            if (down & 1 && row == 0 || down & 2 && row == 2 || across & 1 && column == 0 || across & 2 && column == 2)
                continue;
            if (i == 25 * B)
                sum += each_bias[tap];
            else if ((unsigned)(y - row) < 3 && (unsigned)(x - column) < 3)
                sum += each[tap * 9 * B + channel * 9 + (y - row) * 3 + x - column];
        }
        rim[(down * 4 + across) * (25 * B + 1) + i] = sum;
        if (which == 0 && i < 25 * B) whole[i] = sum;
    }
    __syncthreads();
    spread<B, 2>(whole, a.tail_out + (size_t)p.frame * Window<B, 2>::STEPS * 32);
}

// The weights of M's projection, for one frame. Shared memory: 2 HC + SQ + 9 C floats.
DEVICE void make_merged_tail(float* shared, const Args& a, const Place& p) {
    float *mean = shared, *scale = mean + HC, *squeezed = scale + HC, *whole = squeezed + SQ;
    const u64* sums = a.sums + (size_t)p.frame * C;
    if (threadIdx.x < HC)
        mean[threadIdx.x] = (float)((double)read_sum(sums + threadIdx.x) / ((double)FIXED * p.height * p.width));
    __syncthreads();
    attend(a.head, mean, squeezed, scale);
    for (int i = threadIdx.x; i < 9 * C; i += threads())
        whole[i] = i % C < HC ? a.head[PROJECT + i % C * 9 + i / C] * scale[i % C] : 0.f;
    __syncthreads();
    spread<C, 1>(whole, a.tail_out + (size_t)p.frame * Window<C, 1>::STEPS * 32);
}
