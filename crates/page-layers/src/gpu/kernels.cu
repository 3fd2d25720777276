// What the GPU computes besides the convolutions, which are cuDNN's.
//
// Two compilers read this file: NVRTC, on the machine with the GPU when the program starts, and the
// C++ compiler of the tests, which runs the same index arithmetic on the CPU (host.cpp). So there
// is no header and no warp intrinsic, and the threads of a block meet only between two THREADS
// loops: what is needed after a SYNC is in SHARED memory.
//
// Images are NHWC. All channel counts are multiples of 8: a thread moves 8 channels of a pixel at a
// time, 16 bytes in bfloat16. Sums over pixels are computed by PARTS blocks on every GPU, in a
// fixed order, so they are the same each time.

typedef unsigned int u32;
typedef unsigned long long u64;

#define BLOCK_THREADS 256u

#if !defined(BF16) || !defined(ADAM_FIRST_RATE) || !defined(ADAM_SECOND_RATE) || \
    !defined(ADAM_EPSILON)
#error "compiled without the macros of machine.rs"
#endif

#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
#define SHARED __shared__
#define SYNC __syncthreads()
#define THREADS(t) for (u32 t = threadIdx.x; t < BLOCK_THREADS; t += BLOCK_THREADS)
#define BLOCK blockIdx.x
#define GRID gridDim.x
#else
#define DEVICE static inline
#define KERNEL static void
#define SHARED
#define SYNC
#define THREADS(t) for (u32 t = 0; t < BLOCK_THREADS; ++t)
static thread_local u32 BLOCK, GRID;
#endif

// Every number below `count`, each handled by one thread of the grid.
#define EACH(i, count) \
    THREADS(thread) \
    for (u64 i = (u64)BLOCK * BLOCK_THREADS + thread; i < (count); i += (u64)GRID * BLOCK_THREADS)

// ── Values ───────────────────────────────────────────────────────────────────────────────────────
// An image's values are bfloat16 (BF16 = 1) or f32; arithmetic is always f32.

struct alignas(16) Word4 { u32 w[4]; };
struct Eight { float v[8]; };

DEVICE float from_bits(u32 bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float f; __builtin_memcpy(&f, &bits, 4); return f;
#endif
}

DEVICE u32 to_bits(float f) {
#ifdef __CUDACC__
    return __float_as_uint(f);
#else
    u32 bits; __builtin_memcpy(&bits, &f, 4); return bits;
#endif
}

#if BF16
typedef unsigned short Value;

DEVICE float widen(Value v) { return from_bits((u32)v << 16); }

// Rounds to the nearest value; of two equally near values to the even one.
DEVICE Value narrow(float f) {
    u32 bits = to_bits(f);
    if (f != f) return (Value)((bits >> 16) | 0x40);
    return (Value)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

DEVICE u32 narrow_pair(float low, float high) {
#ifdef __CUDACC__
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return (u32)narrow(low) | (u32)narrow(high) << 16;
#endif
}

DEVICE Eight load(const Value* from) {
    Word4 raw = *(const Word4*)from;
    Eight out;
    for (int i = 0; i < 4; ++i) {
        out.v[2 * i] = from_bits(raw.w[i] << 16);
        out.v[2 * i + 1] = from_bits(raw.w[i] & 0xffff0000u);
    }
    return out;
}

DEVICE void store(Value* to, Eight e) {
    Word4 raw;
    for (int i = 0; i < 4; ++i) raw.w[i] = narrow_pair(e.v[2 * i], e.v[2 * i + 1]);
    *(Word4*)to = raw;
}
#else
typedef float Value;

DEVICE float widen(Value v) { return v; }
DEVICE Value narrow(float f) { return f; }

DEVICE Eight load(const Value* from) {
    Eight out;
    for (int half = 0; half < 2; ++half) {
        Word4 raw = ((const Word4*)from)[half];
        for (int i = 0; i < 4; ++i) out.v[4 * half + i] = from_bits(raw.w[i]);
    }
    return out;
}

DEVICE void store(Value* to, Eight e) {
    for (int half = 0; half < 2; ++half) {
        Word4 raw;
        for (int i = 0; i < 4; ++i) raw.w[i] = to_bits(e.v[4 * half + i]);
        ((Word4*)to)[half] = raw;
    }
}
#endif

// A NaN is passed on; otherwise a diverged training would not be noticed.
DEVICE float relu(float x) { return x <= 0.0f ? 0.0f : x; }

// ── Places ───────────────────────────────────────────────────────────────────────────────────────

// How an image lies in memory: `height` × `width` pixels of `stride` channels; `first` is the first
// channel that is visible. With `split`, the pixels of its 2×2 blocks are stored side by side:
// [height][width][4][stride], and the image is twice as high and wide. The convolution after an
// upsampling leaves such an image (see layout.rs).
struct View { u32 height, width, stride, first, split; };

DEVICE u64 place(View view, u32 image, u32 row, u32 column) {
    if (view.split) {
        u64 pixel = ((u64)image * view.height + row / 2) * view.width + column / 2;
        return (pixel * 4 + (row & 1) * 2 + (column & 1)) * view.stride + view.first;
    }
    return (((u64)image * view.height + row) * view.width + column) * view.stride + view.first;
}

struct Pixel { u32 image, row, column; };

DEVICE Pixel pixel_of(u32 index, u32 height, u32 width) {
    u32 line = index / width;
    Pixel p = {line / height, line % height, index % width};
    return p;
}

// ── Input ────────────────────────────────────────────────────────────────────────────────────────

// Where a sample lies on its page, and how it is varied.
struct Cut {
    u64 bgr;            // address of the page's rows of BGR bytes
    u64 mask;           // address of the layer's bits, `words` of 64 a row
    u32 height, width;  // of the page
    u32 words;
    int top, left;
    u32 mirrored;       // bit 0: left and right exchanged, bit 1: top and bottom
    float lighter;      // taken from the negative's values
    u32 unused;
};

// The place inside 0..length that is seen at `index`: the page is mirrored at its edges, as often
// as needed.
DEVICE u32 inside(int index, u32 length) {
    int period = 2 * (int)length;
    int at = index % period;
    if (at < 0) at += period;
    return at < (int)length ? (u32)at : (u32)(period - 1 - at);
}

// Patches of pages as the network sees them: three channels of (255 - byte) / 255, and five that
// are 0; targets are 0 or 1. Images from `samples` on stay empty.
KERNEL cut_samples(const Cut* cuts, u32 samples, u32 images, u32 height, u32 width, Value* x,
                   float* targets) {
    EACH(i, (u64)images * height * width) {
        Pixel p = pixel_of((u32)i, height, width);
        Eight out = {{0}};
        float target = 0.0f;
        if (p.image < samples) {
            Cut cut = cuts[p.image];
            u32 y = cut.mirrored & 2 ? height - 1 - p.row : p.row;
            u32 x = cut.mirrored & 1 ? width - 1 - p.column : p.column;
            u32 row = inside(cut.top + (int)y, cut.height);
            u32 column = inside(cut.left + (int)x, cut.width);
            const unsigned char* bgr =
                (const unsigned char*)cut.bgr + 3 * ((u64)row * cut.width + column);
            for (int c = 0; c < 3; ++c) {
                float value = (float)(255 - bgr[c]) / 255.0f;
                if (cut.lighter != 0.0f) {
                    value -= cut.lighter;
                    value = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
                }
                out.v[c] = value;
            }
            u64 word = ((const u64*)cut.mask)[(u64)row * cut.words + column / 64];
            target = (float)(word >> (column % 64) & 1);
        }
        store(x + 8 * i, out);
        targets[i] = target;
    }
}

// The same from images and targets (f32) that the host has cut.
KERNEL take_samples(const float* from, u32 samples, u32 images, u32 height, u32 width, Value* x) {
    u64 filled = (u64)samples * height * width;
    EACH(i, (u64)images * height * width) {
        Eight out = {{0}};
        if (i < filled) for (int c = 0; c < 3; ++c) out.v[c] = from[3 * i + c];
        store(x + 8 * i, out);
    }
}

// ── Forward ──────────────────────────────────────────────────────────────────────────────────────

// y = ReLU(z + bias), from one place to another.
KERNEL activate(const Value* z, View from, Value* y, View to, const float* bias, u32 images,
                u32 height, u32 width, u32 channels) {
    u32 vectors = channels / 8;
    EACH(i, (u64)images * height * width * vectors) {
        u32 c = 8 * (u32)(i % vectors);
        Pixel p = pixel_of((u32)(i / vectors), height, width);
        Eight e = load(z + place(from, p.image, p.row, p.column) + c);
        for (int k = 0; k < 8; ++k) e.v[k] = relu(e.v[k] + bias[c + k]);
        store(y + place(to, p.image, p.row, p.column) + c, e);
    }
}

// The same, and the maximum of each 2×2 window to `pooled`; `height` × `width` is the size of
// `pooled`.
KERNEL activate_pool(const Value* z, View from, Value* y, View to, Value* pooled,
                     const float* bias, u32 images, u32 height, u32 width, u32 channels) {
    u32 vectors = channels / 8;
    EACH(i, (u64)images * height * width * vectors) {
        u32 c = 8 * (u32)(i % vectors);
        Pixel p = pixel_of((u32)(i / vectors), height, width);
        Eight best = {{0}};
        for (u32 corner = 0; corner < 4; ++corner) {
            u32 row = 2 * p.row + corner / 2, column = 2 * p.column + corner % 2;
            Eight e = load(z + place(from, p.image, row, column) + c);
            for (int k = 0; k < 8; ++k) {
                float value = relu(e.v[k] + bias[c + k]);
                e.v[k] = value;
                if (corner == 0 || value > best.v[k] || value != value) best.v[k] = value;
            }
            store(y + place(to, p.image, row, column) + c, e);
        }
        store(pooled + 8 * i, best);
    }
}

DEVICE float logit_of(const Value* y, const float* last) {
    return widen(y[0]) * last[0] + widen(y[1]) * last[1] + last[8];
}

// The last layer. `y` has 8 channels, of which two count; `last` is its kernel, padded to 8,
// followed by its bias.
KERNEL logits(const Value* y, const float* last, u64 pixels, float* out) {
    EACH(i, pixels) out[i] = logit_of(y + 8 * i, last);
}

// ── Loss ─────────────────────────────────────────────────────────────────────────────────────────

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

DEVICE float loss_of(float x, float target) {
    float positive = x < 0.0f ? 0.0f : x;
    return positive - x * target + log1pf(expf(-fabsf(x)));
}

// Loss and gradient of the last layer. gz is the gradient before the ReLU that made y; it is 0 for
// pixels from `counted` on. Each block writes a row of `parts`: the loss, the gradients of the last
// layer's two weights and its bias, and those of the two biases of the layer before.
KERNEL loss_gradient(const Value* y, const float* targets, const float* last, u64 pixels,
                     u64 counted, Value* gz, float* parts) {
    SHARED float sums[8 * 256];
    float scale = 1.0f / (float)counted;
    THREADS(t) {
        float sum[6] = {0};
        for (u64 i = (u64)BLOCK * BLOCK_THREADS + t; i < pixels; i += (u64)GRID * BLOCK_THREADS) {
            Eight out = {{0}};
            if (i < counted) {
                Eight e = load(y + 8 * i);
                float x = logit_of(y + 8 * i, last), target = targets[i];
                float g = (sigmoid(x) - target) * scale;
                sum[0] += loss_of(x, target);
                sum[3] += g;
                for (int c = 0; c < 2; ++c) {
                    sum[1 + c] += g * e.v[c];
                    out.v[c] = e.v[c] > 0.0f ? g * last[c] : 0.0f;
                    sum[4 + c] += out.v[c];
                }
            }
            store(gz + 8 * i, out);
        }
        for (int k = 0; k < 6; ++k) sums[k * 256 + t] = sum[k];
    }
    SYNC;
    THREADS(t) {
        if (t < 6) {
            float sum = 0.0f;
            for (u32 i = 0; i < BLOCK_THREADS; ++i) sum += sums[t * 256 + i];
            parts[8 * BLOCK + t] = sum;
        }
    }
}

// Sums of the 8 columns of `parts` by one block: eight threads for the columns, 32 for the rows.
#define SUM_ROWS(sums, parts, rows) \
    THREADS(t) { \
        double sum = 0.0; \
        for (u32 row = t / 8; row < (rows); row += 32) sum += (double)(parts)[8 * row + t % 8]; \
        sums[t] = sum; \
    } \
    SYNC;

// Writes the mean loss, and the five gradients to their places in `gradients`.
KERNEL finish_loss(const float* parts, u32 rows, u64 counted, float* loss, float* gradients,
                   u32 last_kernel, u32 last_bias, u32 bias_below) {
    SHARED double sums[256];
    SUM_ROWS(sums, parts, rows)
    THREADS(t) {
        if (t < 6) {
            double sum = 0.0;
            for (u32 i = t; i < 256; i += 8) sum += sums[i];
            u32 at = t < 3 ? last_kernel + t - 1 : t == 3 ? last_bias : bias_below + t - 4;
            if (t == 0) *loss = (float)(sum / (double)counted);
            else gradients[at] = (float)sum;
        }
    }
}

// What the metrics are computed from; each block writes a row of `parts`: true positives, false
// positives, false negatives, the loss, the probabilities and their squares.
KERNEL count_pixels(const Value* y, const float* targets, const float* last, u64 counted,
                    double* parts) {
    SHARED double sums[6 * 256];
    THREADS(t) {
        double sum[6] = {0};
        for (u64 i = (u64)BLOCK * BLOCK_THREADS + t; i < counted; i += (u64)GRID * BLOCK_THREADS) {
            float x = logit_of(y + 8 * i, last), target = targets[i], probability = sigmoid(x);
            bool called = probability > 0.5f, is = target > 0.5f;
            sum[0] += called && is;
            sum[1] += called && !is;
            sum[2] += !called && is;
            sum[3] += (double)loss_of(x, target);
            sum[4] += (double)probability;
            sum[5] += (double)probability * (double)probability;
        }
        for (int k = 0; k < 6; ++k) sums[k * 256 + t] = sum[k];
    }
    SYNC;
    THREADS(t) {
        if (t < 6) {
            double sum = 0.0;
            for (u32 i = 0; i < BLOCK_THREADS; ++i) sum += sums[t * 256 + i];
            parts[8 * BLOCK + t] = sum;
        }
    }
}

// Adds the rows to the sums of the earlier batches.
KERNEL add_counts(const double* parts, u32 rows, double* total) {
    SHARED double sums[256];
    SUM_ROWS(sums, parts, rows)
    THREADS(t) {
        if (t < 6) {
            double sum = 0.0;
            for (u32 i = t; i < 256; i += 8) sum += sums[i];
            total[t] += sum;
        }
    }
}

// ── Backward ─────────────────────────────────────────────────────────────────────────────────────

// The second half of a kernel whose threads have left 8 sums each, `vectors` neighbours for one
// pixel: writes a row of `parts`.
#define SUM_CHANNELS(sums, channels, vectors, parts) \
    SYNC; \
    THREADS(t) { \
        if (t < (channels)) { \
            float sum = 0.0f; \
            for (u32 i = t / 8; i < BLOCK_THREADS; i += (vectors)) sum += sums[(t % 8) * 256 + i]; \
            (parts)[(u64)BLOCK * (channels) + t] = sum; \
        } \
    }

// gz = the gradient before a ReLU, from the one after it; its derivative at 0 is 0, as
// TensorFlow's. Each block writes a row of `parts`, for the bias's gradient. `channels` is 8, 16,
// 32, 64, 128 or 256.
KERNEL gate(const Value* gy, View from, const Value* y, View result, Value* gz, View to, u32 images,
            u32 height, u32 width, u32 channels, float* parts) {
    SHARED float sums[8 * 256];
    u32 vectors = channels / 8, at_once = BLOCK_THREADS / vectors;
    THREADS(t) {
        u32 c = 8 * (t % vectors);
        Eight sum = {{0}};
        u32 pixels = images * height * width;
        for (u32 i = BLOCK * at_once + t / vectors; i < pixels; i += GRID * at_once) {
            Pixel p = pixel_of(i, height, width);
            Eight g = load(gy + place(from, p.image, p.row, p.column) + c);
            Eight e = load(y + place(result, p.image, p.row, p.column) + c);
            for (int k = 0; k < 8; ++k) {
                g.v[k] = e.v[k] > 0.0f ? g.v[k] : 0.0f;
                sum.v[k] += g.v[k];
            }
            store(gz + place(to, p.image, p.row, p.column) + c, g);
        }
        for (int k = 0; k < 8; ++k) sums[k * 256 + t] = sum.v[k];
    }
    SUM_CHANNELS(sums, channels, vectors, parts)
}

// The same for a result that was used twice: by the skip connection, and by a 2×2 max pool, whose
// whole gradient goes to the first maximum in row-major order. `height` × `width` is the pooled
// size; `pooled` and gz have no gaps.
KERNEL gate_pool(const Value* skip, View from, const Value* pooled, const Value* y, View result,
                 Value* gz, u32 images, u32 height, u32 width, u32 channels, float* parts) {
    SHARED float sums[8 * 256];
    u32 vectors = channels / 8, at_once = BLOCK_THREADS / vectors;
    View to = {2 * height, 2 * width, channels, 0, 0};
    THREADS(t) {
        u32 c = 8 * (t % vectors);
        Eight sum = {{0}};
        u32 pixels = images * height * width;
        for (u32 i = BLOCK * at_once + t / vectors; i < pixels; i += GRID * at_once) {
            Pixel p = pixel_of(i, height, width);
            Eight e[4];
            for (u32 corner = 0; corner < 4; ++corner) {
                u32 row = 2 * p.row + corner / 2, column = 2 * p.column + corner % 2;
                e[corner] = load(y + place(result, p.image, row, column) + c);
            }
            Eight g = load(pooled + (u64)i * channels + c);
            u32 first[8];
            for (int k = 0; k < 8; ++k) {
                float best = fmaxf(fmaxf(e[0].v[k], e[1].v[k]), fmaxf(e[2].v[k], e[3].v[k]));
                first[k] = e[0].v[k] == best   ? 0
                           : e[1].v[k] == best ? 1
                           : e[2].v[k] == best ? 2
                                               : 3;
            }
            for (u32 corner = 0; corner < 4; ++corner) {
                u32 row = 2 * p.row + corner / 2, column = 2 * p.column + corner % 2;
                Eight s = load(skip + place(from, p.image, row, column) + c);
                for (int k = 0; k < 8; ++k) {
                    float both = s.v[k] + (first[k] == corner ? g.v[k] : 0.0f);
                    s.v[k] = e[corner].v[k] > 0.0f ? both : 0.0f;
                    sum.v[k] += s.v[k];
                }
                store(gz + place(to, p.image, row, column) + c, s);
            }
        }
        for (int k = 0; k < 8; ++k) sums[k * 256 + t] = sum.v[k];
    }
    SUM_CHANNELS(sums, channels, vectors, parts)
}

// ── Parameters ───────────────────────────────────────────────────────────────────────────────────

// A run of parameters. `master`: its place among the f32 parameters, their gradients and moments.
// `compute`: its place among the kernels in the layout of the convolutions (and among the gradients
// that come back).
struct Segment { u32 master, length, compute, kind, input, output, parts; };

enum {
    KERNEL_PLAIN,     // [out][k][k][in] in both
    KERNEL_UPSAMPLED, // [out][2][2][in]; the convolution's is [4 · out][2][2][in], see
                      // expand_kernels
    BIAS_SUMMED,      // gradient: at `master` among the gradients, from rows of `output` values
                      // from `parts` on
    DIRECT,           // gradient: at `master` among the gradients
};

// The biases' gradients from the rows that gate and gate_pool have left: one block for 8 channels
// of a segment.
KERNEL sum_biases(const Segment* segments, u32 each, const float* parts, u32 rows,
                  float* gradients) {
    SHARED float sums[256];
    Segment s = segments[BLOCK / each];
    u32 first = BLOCK % each * 8;
    bool mine = s.kind == BIAS_SUMMED && first < s.output;
    THREADS(t) {
        float sum = 0.0f;
        for (u32 row = t / 8; row < rows && mine; row += 32)
            sum += parts[s.parts + (u64)row * s.output + first + t % 8];
        sums[t] = sum;
    }
    SYNC;
    THREADS(t) {
        if (t < 8 && mine) {
            float sum = 0.0f;
            for (u32 i = t; i < 256; i += 8) sum += sums[i];
            gradients[s.master + first + t] = sum;
        }
    }
}

// The gradient of value `i`.
DEVICE float gradient_of(Segment s, u32 i, const Value* kernels, const float* direct) {
    switch (s.kind) {
    case KERNEL_PLAIN:
        return widen(kernels[s.compute + i]);
    case KERNEL_UPSAMPLED: {
        // The four small convolutions in which the tap takes part.
        u32 c = i % s.input, column = i / s.input % 2, row = i / s.input / 2 % 2;
        u32 k = i / s.input / 4;
        float sum = 0.0f;
        for (u32 part = 0; part < 4; ++part) {
            u32 r = part / 2 ? row : 0, q = part % 2 ? column : 0;
            u64 at = ((((u64)part * s.output + k) * 2 + r) * 2 + q) * s.input + c;
            sum += widen(kernels[s.compute + at]);
        }
        return sum;
    }
    default:
        return direct[s.master + i];
    }
}

// One step of Adam by Keras's rule, and the kernels for the next forward pass. Nothing changes when
// the loss is not finite. `each` blocks work on one segment.
KERNEL adam(const Segment* segments, u32 each, const Value* kernel_gradients, const float* direct,
            const float* loss, float alpha, float* master, float* first, float* second,
            Value* kernels) {
    Segment s = segments[BLOCK / each];
    bool finite = *loss - *loss == 0.0f;
    THREADS(t) {
        for (u32 i = BLOCK % each * BLOCK_THREADS + t; i < s.length && finite;
             i += each * BLOCK_THREADS) {
            float g = gradient_of(s, i, kernel_gradients, direct);
            u32 at = s.master + i;
            float m = first[at], v = second[at], w = master[at];
            m += (g - m) * ADAM_FIRST_RATE;
            v += (g * g - v) * ADAM_SECOND_RATE;
            w -= m * alpha / (sqrtf(v) + ADAM_EPSILON);
            first[at] = m;
            second[at] = v;
            master[at] = w;
            if (s.kind != KERNEL_UPSAMPLED) kernels[s.compute + i] = narrow(w);
        }
    }
}

// The gradients alone, in the order of the parameters: for checks.
KERNEL gather_gradients(const Segment* segments, u32 each, const Value* kernel_gradients,
                        const float* direct, float* out) {
    Segment s = segments[BLOCK / each];
    THREADS(t) {
        for (u32 i = BLOCK % each * BLOCK_THREADS + t; i < s.length; i += each * BLOCK_THREADS)
            out[s.master + i] = gradient_of(s, i, kernel_gradients, direct);
    }
}

// The kernels in the layout of the convolutions, from the parameters.
KERNEL copy_kernels(const Segment* segments, u32 each, const float* master, Value* kernels) {
    Segment s = segments[BLOCK / each];
    THREADS(t) {
        for (u32 i = BLOCK % each * BLOCK_THREADS + t; i < s.length && s.kind != KERNEL_UPSAMPLED;
             i += each * BLOCK_THREADS)
            kernels[s.compute + i] = narrow(master[s.master + i]);
    }
}

// Nearest ×2 and a 2×2 convolution are four convolutions of the small image, one for each pixel of
// a 2×2 block: the taps that fall on the same small pixel are added. An even row reads one small
// row, an odd row two; the same holds for columns.
KERNEL expand_kernels(const Segment* segments, u32 each, const float* master, Value* kernels) {
    Segment s = segments[BLOCK / each];
    THREADS(t) {
        for (u32 i = BLOCK % each * BLOCK_THREADS + t;
             i < 4 * s.length && s.kind == KERNEL_UPSAMPLED; i += each * BLOCK_THREADS) {
            u32 c = i % s.input, q = i / s.input % 2, r = i / s.input / 2 % 2;
            u32 k = i / s.input / 4 % s.output;
            u32 part = i / s.input / 4 / s.output;
            u32 odd_row = part / 2, odd_column = part % 2;
            float sum = 0.0f;
            for (u32 row = 0; row < 2; ++row) {
                for (u32 column = 0; column < 2; ++column) {
                    bool here =
                        (odd_row ? row == r : r == 0) && (odd_column ? column == q : q == 0);
                    if (here)
                        sum += master[s.master + (((u64)k * 2 + row) * 2 + column) * s.input + c];
                }
            }
            kernels[s.compute + i] = narrow(sum);
        }
    }
}
