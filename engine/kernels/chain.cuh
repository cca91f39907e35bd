// A chain, W, H or F: 1 -> b -> ... -> b on one tile, in shared memory, from where its input comes to the sums of the map
// that its attention needs. What follows of it, expand, weigh and project, is the start of the next kernel.

enum Kind {
    FRAME,       // W of the first stage: of the frame alone
    BACKGROUND,  // W: starts with the end of M, which is D
    AGAIN,       // W, where D is the frame: starts with the end of H, which is T
    TARGET,      // H: starts with the end of W
    NOISE,       // F: starts with the end of H, which is T
};

DEVICE float pixel_of(const Args& a, size_t at, int frame) {
    float value = a.bits == 8 ? a.frames[at] : a.frames[2 * at] + 256.f * a.frames[2 * at + 1];
    float low = a.window[2 * frame], high = a.window[2 * frame + 1];
    return fminf(fmaxf((value - low) / (high - low), 0.f), 1.f);
}

DEVICE float of(const float* map, size_t at) { return map ? map[at] : 0.f; }

// The chain's input at a pixel, of which `tail` is what the kernel started with; `mine` are the tile's own pixels, to be
// written.
template <int KIND>
DEVICE float input_of(const Args& a, size_t at, int frame, float tail, bool mine) {
    if constexpr (KIND == FRAME) {
        float x = pixel_of(a, at, frame);
        if (mine && a.x) a.x[at] = x;
        return x;
    } else if constexpr (KIND == BACKGROUND) {
        float x = tail + a.bias - a.t[at] - of(a.n, at);
        if (mine && a.x) a.x[at] = x;
        return x;
    } else if constexpr (KIND == AGAIN) {
        float t = a.y[at] - a.gain * (tail + a.bias), x = pixel_of(a, at, frame) - t;
        if (mine) a.t[at] = t;
        return x;
    } else if constexpr (KIND == TARGET) {  // D - T - N + W is B, so D cancels in T + D - B - N and in N + D - B
        float w = tail + a.bias, t = of(a.t, at), y = 2.f * t - w;
        if (mine) {
            a.y[at] = y;
            if (a.q) a.q[at] = 2.f * of(a.n, at) + t - w, a.back[at] = a.x[at] + w;
        }
        return y;
    } else {
        float t = a.y[at] - a.gain * (tail + a.bias), z = a.q[at] - t;
        if (mine) a.t[at] = t, a.z[at] = z, a.r[at] = a.back[at] + t;
        return z;
    }
}

// Fetch the rows of a map of one channel that a tile and `BORDER` pixels around it will need.
template <int BORDER>
DEVICE void fetch_map(const float* map, const Place& p) {
    constexpr int ROWS = TH + 2 * BORDER, LINES = (TW + 2 * BORDER) / 32 + 2;
    if (!map) return;
    for (int i = threadIdx.x; i < ROWS * LINES; i += threads()) {
        int row = i / LINES - BORDER, column = min(i % LINES * 32 - BORDER, TW + BORDER - 1);
        if (p.inside(row, column)) fetch(map + p.at(row, column));
    }
}

template <int L, int LAYER>
DEVICE void layers(u8* from, u8* to, const Args& a, const Place& p) {
    if constexpr (LAYER < L) {
        constexpr int BORDER = L - LAYER - 1;
        constexpr int BYTES = B == 4 ? 3 * 32 * 8 : 9 * 32 * 16;
        thin<TW + 2 * BORDER, TH + 2 * BORDER, BORDER>(from, a.layers + LAYER * BYTES, a.layer_bias + LAYER * B, to, p);
        __syncthreads();
        layers<L, LAYER + 1>(to, from, a, p);
    } else {
        float* scratch = (float*)to;  // both are free after the sums but for the last map
        write_thin(from, scratch, a, p);
        if (is_last(a, p, (int*)scratch)) {
            __syncthreads();
            make_thin_tail(scratch + 4, a, p);
        }
    }
}

constexpr int TAIL_BYTES = 4 * (9 * B + 2 * HC + SQ + 9 * HC + 81 * B + 9 + 25 * B + 4);

// How a chain lays out its shared memory.
template <int KIND, int L, int FIRST>
struct Layout {
    static constexpr int BORDER = L + FIRST / 2, W = TW + 2 * BORDER, H = TH + 2 * BORDER;  // of its input
    static constexpr int CH = KIND == BACKGROUND ? C : B, R = KIND == BACKGROUND ? 1 : 2;    // of the tail it starts with
    static constexpr int ROWS = up_to(H, 4) + 2 * R;
    // One part has the map of the tail, then those of even layers; the other one the chain's input, then odd layers.
    static constexpr int TAIL = KIND == FRAME ? 0 : (W + 2 * R) * ROWS * CH * 2;
    static constexpr int EVEN = larger((TW + 2 * L) * (TH + 2 * L) * B * 2, TAIL_BYTES);
    static constexpr int ODD = larger((TW + 2 * L - 2) * (TH + 2 * L - 2) * B * 2, TAIL_BYTES);
    static constexpr int FIRST_PART = up_to(larger(EVEN, TAIL), 128);
    static constexpr int BYTES = FIRST_PART + up_to(larger(ODD, W * H * 4), 128);
};

template <int KIND, int L, int FIRST>
DEVICE void chain(const Args& a) {
    typedef Layout<KIND, L, FIRST> S;
    SHARED(memory);
    u8 *even = memory, *odd = memory + S::FIRST_PART;
    float* x = (float*)odd;
    Place p = place_of(a);
    fetch_head(a.head, CHAIN_HEAD);
    wait_for_the_kernel_before();
    if constexpr (KIND == BACKGROUND || KIND == TARGET) fetch_map<S::BORDER>(a.t, p), fetch_map<S::BORDER>(a.n, p);
    if constexpr (KIND == AGAIN) fetch_map<S::BORDER>(a.y, p);
    if constexpr (KIND == TARGET) fetch_map<0>(a.x, p);
    if constexpr (KIND == NOISE) fetch_map<S::BORDER>(a.y, p), fetch_map<S::BORDER>(a.q, p), fetch_map<0>(a.back, p);
    if constexpr (KIND != FRAME) {
        constexpr int AROUND = S::BORDER + S::R;
        load_map<S::CH, AROUND, TW + 2 * AROUND, TH + 2 * AROUND, S::ROWS, TW + 2 * AROUND>(even, a.maps_in, p);
        __syncthreads();
        const uint2* tail = a.tail_in + (size_t)p.frame * Window<S::CH, S::R>::STEPS * 32;
        project<S::CH, S::R, S::W, S::H>(even, tail, x);
        __syncthreads();
        if constexpr (KIND != BACKGROUND) {
            mend_rim<S::W, S::H, S::BORDER>(even, a.rim_in + (size_t)p.frame * 16 * (25 * B + 1), x, p);
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < S::W * S::H; i += threads()) {
        int row = i / S::W - S::BORDER, column = i % S::W - S::BORDER;
        bool mine = (unsigned)row < TH && (unsigned)column < TW;
        x[i] = p.inside(row, column) ? input_of<KIND>(a, p.at(row, column), p.frame, x[i], mine) : 0.f;
    }
    __syncthreads();
    constexpr int W = TW + 2 * L, H = TH + 2 * L;
    if constexpr (FIRST == 3)
        first_3x3<B, W, H, W, L>(x, a.first, a.first_bias, even, p);
    else
        first_1x1<W, H, L>(x, a.first, a.first_bias, even, p);
    __syncthreads();
    layers<L, 0>(even, odd, a, p);
}

// The end of the last stage's H, and the answer.
DEVICE void answer_of(const Args& a) {
    SHARED(memory);
    float* x = (float*)memory;
    u8* map = memory + TW * TH * 4;
    Place p = place_of(a);
    wait_for_the_kernel_before();
    fetch_map<0>(a.y, p);
    load_map<B, 2, TW + 4, TH + 4, TH + 4, TW + 4>(map, a.maps_in, p);
    __syncthreads();
    project<B, 2, TW, TH>(map, a.tail_in + (size_t)p.frame * Window<B, 2>::STEPS * 32, x);
    __syncthreads();
    mend_rim<TW, TH, 0>(map, a.rim_in + (size_t)p.frame * 16 * (25 * B + 1), x, p);
    __syncthreads();
    for (int i = threadIdx.x; i < TW * TH; i += threads()) {
        if (!p.inside(i / TW, i % TW)) continue;
        size_t at = p.at(i / TW, i % TW);
        float t = a.y[at] - a.gain * (x[i] + a.bias);
        a.targets[at] = (u8)rintf(255.f / (1.f + expf(-t)));
    }
}

KERNEL(chain_frame, CHAIN_THREADS, CHAIN_BLOCKS, (chain<FRAME, LAYER_W, FIRST_W>(a)))
KERNEL(chain_target, CHAIN_THREADS, CHAIN_BLOCKS, (chain<TARGET, LAYER_H, FIRST_H>(a)))
KERNEL(answer, CHAIN_THREADS, CHAIN_BLOCKS, answer_of(a))
#if STAGES > 1 && !REBUILDS
KERNEL(chain_again, CHAIN_THREADS, CHAIN_BLOCKS, (chain<AGAIN, LAYER_W, FIRST_W>(a)))
#endif
#if REBUILDS
KERNEL(chain_background, CHAIN_THREADS, CHAIN_BLOCKS, (chain<BACKGROUND, LAYER_W, FIRST_W>(a)))
KERNEL(chain_noise, CHAIN_THREADS, CHAIN_BLOCKS, (chain<NOISE, LAYER_F, FIRST_F>(a)))
#endif
