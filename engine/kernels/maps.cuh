// Maps in shared memory: a tile with a border around it. A pixel outside of the frame is zero in all of them.

// The place in bytes of 8 channels of a pixel (of 2 pixels for 4 channels), turned around so that 8 neighbouring
// pixels are not in the same banks.
template <int CH>
DEVICE int at(int pixel, int chunk) {
    if constexpr (CH == 4) return pixel * 8 + chunk * 16;
    if constexpr (CH == 16) return pixel * 32 + ((chunk ^ (pixel >> 2 & 1)) << 4);
    return pixel * 64 + ((chunk ^ (pixel >> 1 & 3)) << 4);
}

CONSTANT int up_to(int value, int step) { return (value + step - 1) / step * step; }

// Copy a tile and `BORDER` pixels around it, W x H, of a map in device memory; ROWS - H rows of zeros follow.
template <int CH, int BORDER, int W, int H, int ROWS, int PITCH>
DEVICE void load_map(u8* to, const u8* maps, const Place& p) {
    constexpr int PARTS = CH == 4 ? 1 : CH / 8;  // a pixel
#pragma unroll 4
    for (int i = threadIdx.x; i < W * ROWS * PARTS; i += threads()) {
        int pixel = i / PARTS, part = i % PARTS, row = pixel / W, column = pixel % W;
        bool inside = row < H && p.inside(row - BORDER, column - BORDER);
        const u8* from = maps + p.at(row - BORDER, column - BORDER) * CH * 2;
        int place = row * PITCH + column;
        if constexpr (CH == 4)
            *(uint2*)(to + at<CH>(place, 0)) = inside ? *(const uint2*)from : make_uint2(0, 0);
        else
            *(uint4*)(to + at<CH>(place, part)) = inside ? ((const uint4*)from)[part] : make_uint4(0, 0, 0, 0);
    }
}

// How `project` cuts its work: N is 4 rows by 2 columns of pixels, K the window of pixels that they see.
template <int CH, int R>
struct Window {
    static constexpr int ROWS = 4 + 2 * R, COLUMNS = 2 + 2 * R;
    static constexpr int CHUNKS = COLUMNS * CH / 8;  // a row, of 8 numbers each
    static constexpr int STEPS = ROWS * CHUNKS / 2;  // of K, 16 numbers each
    // Of the weight of `element` of 8 numbers of a chunk for a pixel of the N: row, column and channel. The weight is
    // zero where they are not in the (2 R + 1)^2 window.
    static DEVICE void split(int step, int k, int n, int& row, int& column, int& channel) {
        int chunk = step * 2 + k / 8, element = chunk % CHUNKS * 8 + k % 8;
        row = chunk / CHUNKS - n / 2, column = element / CH - n % 2, channel = element % CH;
    }
};

// A convolution of radius R from CH channels to one, W x H pixels, from a map with a border of R pixels (its rows up to
// a multiple of 4 must be finite). W is even.
template <int CH, int R, int W, int H>
DEVICE void project(const u8* map, const uint2* weights, float* out) {
    typedef Window<CH, R> V;
    constexpr int PITCH = W + 2 * R, ACROSS = W / 2, GROUPS = ACROSS * (up_to(H, 4) / 4);
    constexpr int PARTS = larger(CH / 8, 1);  // of 8 channels a pixel
    constexpr int SETS = CH == 4 ? 2 : 4;     // sums that do not wait for each other
    int lane = lane_of(), second = lane >> 4;
    for (int first = warp_of() * 16; first < GROUPS; first += warps() * 16) {
        int group = min(first + (lane & 15), GROUPS - 1);
        int pixel = group / ACROSS * 4 * PITCH + group % ACROSS * 2;
        float c[SETS][4] = {};
        if constexpr (CH == 4) {
#pragma unroll
            for (int step = 0; step < V::STEPS; ++step) {
                int even = 2 * step, odd = even + 1;
                int to_even = even / V::CHUNKS * PITCH * 8 + even % V::CHUNKS * 16;
                int to_odd = odd / V::CHUNKS * PITCH * 8 + odd % V::CHUNKS * 16;
                unsigned m[4];
                load_rows(m, map + pixel * 8 + (second ? to_odd : to_even));
                uint2 w = weights[step * 32 + lane];
                multiply(c[step % SETS], m, w.x, w.y);
            }
        } else {
#pragma unroll 2
            for (int row = 0; row < V::ROWS; ++row)
#pragma unroll
                for (int i = 0; i < V::CHUNKS / 2; ++i) {
                    unsigned m[4];
                    load_rows(m, map + at<CH>(pixel + row * PITCH + 2 * i / PARTS, 2 * i % PARTS + second));
                    uint2 w = weights[(row * (V::CHUNKS / 2) + i) * 32 + lane];
                    multiply(c[i % SETS], m, w.x, w.y);
                }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int made = first + lane / 4 + 8 * half, row = made / ACROSS * 4 + lane % 4;
            if (made >= GROUPS || row >= H) continue;
            float* to = out + row * W + made % ACROSS * 2;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float sum = c[0][2 * half + i];
#pragma unroll
                for (int set = 1; set < SETS; ++set) sum += c[set][2 * half + i];
                to[i] = sum;
            }
        }
    }
}

// Compute anew the pixels at the frame's border: there the tail, two convolutions with zeros around the map between
// them, is not one of 5x5. `weights` are, of each of 16 kinds of border, [5][5][B] and a bias; the first kind is none,
// whose bias all other pixels are given here.
template <int W, int H, int BORDER>
DEVICE void mend_rim(const u8* map, const float* weights, float* out, const Place& p) {
    constexpr int PITCH = W + 4, COUNT = 25 * B;
    for (int i = threadIdx.x; i < W * H; i += threads()) {
        int y = p.y + i / W - BORDER, x = p.x + i % W - BORDER;
        if (y > 0 && y < p.height - 1 && x > 0 && x < p.width - 1) out[i] += weights[COUNT];
    }
#pragma unroll 1
    for (int side = 0; side < 4; ++side) {
        int edge = (side == 0 ? -p.y : side == 1 ? p.height - 1 - p.y : side == 2 ? -p.x : p.width - 1 - p.x) + BORDER;
        if (edge < 0 || edge >= (side < 2 ? H : W)) continue;
        for (int i = threadIdx.x; i < (side < 2 ? W : H); i += threads()) {
            int row = side < 2 ? edge : i, column = side < 2 ? i : edge;
            int y = p.y + row - BORDER, x = p.x + column - BORDER;
            if (!p.inside(row - BORDER, column - BORDER)) continue;
            int down = (y == 0) + 2 * (y == p.height - 1), across = (x == 0) + 2 * (x == p.width - 1);
            if (side >= 2 && down || side == 1 && y == 0 || side == 3 && x == 0) continue;  // another side's
            const float* w = weights + (down * 4 + across) * (COUNT + 1);
            float sum = w[COUNT];
#pragma unroll 1
            for (int dy = 0; dy < 5; ++dy)
                for (int dx = 0; dx < 5; ++dx) {
                    int pixel = (row + dy) * PITCH + column + dx;
#pragma unroll
                    for (int part = 0; part < B / 4; ++part) {
                        uint2 v = *(const uint2*)(map + at<B>(pixel, part / 2) + part % 2 * 8);
                        const float* each = w + (dy * 5 + dx) * B + part * 4;
                        sum += each[0] * low_of(v.x) + each[1] * high_of(v.x);
                        sum += each[2] * low_of(v.y) + each[3] * high_of(v.y);
                    }
                }
            out[row * W + column] = sum;
        }
    }
}

// Put the channels of a pixel that lane t of 4 has into a map: 2, 4 or 8 from channel t * 2, 4 or 8.
template <int CH>
DEVICE void put(u8* map, int pixel, int t, const float* v) {
    if constexpr (CH == 4) {
        if (t < 2) *(unsigned*)(map + pixel * 8 + t * 4) = pack(v[0], v[1]);
    } else if constexpr (CH == 16) {
        *(uint2*)(map + at<CH>(pixel, t / 2) + t % 2 * 8) = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
    } else {
        *(uint4*)(map + at<CH>(pixel, t)) =
            make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
    }
}

// How many tiles of 8 columns a convolution to CH channels has, and how lanes hold them: the 2 columns of lane t in tile
// j are the channels 2 TILES t + 2 j and the next, so that a lane has neighbouring ones.
template <int CH>
struct Columns {
    static constexpr int TILES = CH == 4 ? 1 : CH / 8, EACH = 2 * TILES;
};

template <int CH>
DEVICE void finish_pixel(u8* map, int pixel, int t, const float (&c)[Columns<CH>::TILES][4], int half, bool inside) {
    float v[Columns<CH>::EACH];
#pragma unroll
    for (int i = 0; i < Columns<CH>::EACH; ++i)
        v[i] = inside ? limited(fmaxf(c[i / 2][2 * half + i % 2], 0.f)) : 0.f;
    put<CH>(map, pixel, t, v);
}

// A 3x3 convolution of a map of one channel, [H + 2][W + 2], and a ReLU. The map is taken as two float16, so that it loses
// nothing but beyond 21 bits.
template <int CH, int W, int H, int PITCH, int BORDER>
DEVICE void first_3x3(const float* x, const u8* weights, const float* bias, u8* out, const Place& p) {
    constexpr int TILES = Columns<CH>::TILES, EACH = Columns<CH>::EACH;
    int lane = lane_of(), g = lane / 4, t = lane % 4;
    int one = (2 * t) / 3 * (W + 2) + (2 * t) % 3, two = (2 * t + 1) / 3 * (W + 2) + (2 * t + 1) % 3;
    uint2 w[TILES];
    float b[EACH];
#pragma unroll
    for (int j = 0; j < TILES; ++j) w[j] = ((const uint2*)weights)[(j / 2 * 32 + lane) * (TILES > 1 ? 2 : 1) + j % 2];
#pragma unroll
    for (int i = 0; i < EACH; ++i) b[i] = CH == 4 && t > 1 ? 0.f : bias[t * EACH + i];
    for (int first = warp_of() * 16; first < W * H; first += warps() * 16) {
        unsigned large[4] = {}, small[4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int pixel = min(first + g + 8 * half, W * H - 1);
            const float* from = x + pixel / W * (W + 2) + pixel % W;
            float v0 = limited(from[one]), v1 = limited(from[two]), v2 = t ? 0.f : limited(from[2 * (W + 2) + 2]);
            large[half] = pack(v0, v1), large[2 + half] = pack(v2, 0.f);
            small[half] = pack(v0 - low_of(large[half]), v1 - high_of(large[half]));
            small[2 + half] = pack(v2 - low_of(large[2 + half]), 0.f);
        }
        float c[TILES][4];
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) c[j][i] = b[2 * j + i % 2];
            multiply(c[j], large, w[j].x, w[j].y);
            multiply(c[j], small, w[j].x, w[j].y);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int pixel = first + g + 8 * half, row = pixel / W, column = pixel % W;
            if (pixel < W * H)
                finish_pixel<CH>(out, row * PITCH + column, t, c, half, p.inside(row - BORDER, column - BORDER));
        }
    }
}

// A 1x1 convolution of a map of one channel and a ReLU. `weights` are float32.
template <int W, int H, int BORDER>
DEVICE void first_1x1(const float* x, const u8* weights, const float* bias, u8* out, const Place& p) {
    const float* w = (const float*)weights;
    for (int i = threadIdx.x; i < W * H; i += threads()) {
        bool inside = p.inside(i / W - BORDER, i % W - BORDER);
        float value = x[i];
#pragma unroll
        for (int part = 0; part < B / 4; ++part) {
            float v[4];
#pragma unroll
            for (int k = 0; k < 4; ++k)
                v[k] = inside ? limited(fmaxf(w[part * 4 + k] * value + bias[part * 4 + k], 0.f)) : 0.f;
            *(uint2*)(out + at<B>(i, part / 2) + part % 2 * 8) = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
        }
    }
}

// A 3x3 convolution b -> b and a ReLU; W x H pixels from a map of W + 2 by H + 2.
template <int W, int H, int BORDER>
DEVICE void thin(const u8* map, const u8* weights, const float* bias, u8* out, const Place& p) {
    int lane = lane_of(), g = lane / 4, t = lane % 4, second = lane >> 4;
    constexpr int PITCH = W + 2;
    if constexpr (B == 4) {  // two neighbouring pixels are the 8 columns, and of each row the 4 pixels that they see are 16 of K
        constexpr int ACROSS = W / 2, PAIRS = ACROSS * H;
        uint2 w[3];
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) w[dy] = ((const uint2*)weights)[dy * 32 + lane];
        float b0 = bias[t % 2 * 2], b1 = bias[t % 2 * 2 + 1];
        for (int first = warp_of() * 16; first < PAIRS; first += warps() * 16) {
            int pair = min(first + (lane & 15), PAIRS - 1);
            const u8* from = map + (pair / ACROSS * PITCH + pair % ACROSS * 2) * 8 + second * 16;
            float c[4] = {b0, b1, b0, b1};
#pragma unroll
            for (int dy = 0; dy < 3; ++dy) {
                unsigned m[4];
                load_rows(m, from + dy * PITCH * 8);
                multiply(c, m, w[dy].x, w[dy].y);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int made = first + g + 8 * half, row = made / ACROSS, column = made % ACROSS * 2;
                if (made >= PAIRS) continue;
                bool inside = p.inside(row - BORDER, column + t / 2 - BORDER);
                float v0 = inside ? limited(fmaxf(c[2 * half], 0.f)) : 0.f;
                float v1 = inside ? limited(fmaxf(c[2 * half + 1], 0.f)) : 0.f;
                *(unsigned*)(out + (row * W + column) * 8 + t * 4) = pack(v0, v1);
            }
        }
    } else {
        constexpr int TILES = Columns<B>::TILES, EACH = Columns<B>::EACH;
        float b[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) b[i] = bias[t * EACH + i];
        uint4 w[9];
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) w[tap] = ((const uint4*)weights)[tap * 32 + lane];
        for (int first = warp_of() * 16; first < W * H; first += warps() * 16) {
            int pixel = min(first + (lane & 15), W * H - 1), from = pixel / W * PITCH + pixel % W;
            float c[TILES][4];
#pragma unroll
            for (int i = 0; i < 4 * TILES; ++i) c[i / 4][i % 4] = b[i / 4 * 2 + i % 2];
#pragma unroll
            for (int tap = 0; tap < 9; ++tap) {
                unsigned m[4];
                load_rows(m, map + at<B>(from + tap / 3 * PITCH + tap % 3, second));
                multiply(c[0], m, w[tap].x, w[tap].y);
                multiply(c[TILES - 1], m, w[tap].z, w[tap].w);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int made = first + g + 8 * half, row = made / W, column = made % W;
                if (made < W * H) finish_pixel<B>(out, made, t, c, half, p.inside(row - BORDER, column - BORDER));
            }
        }
    }
}
