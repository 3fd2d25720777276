// The kernels as plain C++, for the tests: one block after another, one thread after another. Built
// twice, with BF16 0 and 1.
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.cu"

// Where kernels.cu sees a grid of blocks, one block runs at a time here.
template <class... P, std::size_t... I>
static void call(void (*kernel)(P...), u32 blocks, void** arguments, std::index_sequence<I...>) {
    GRID = blocks;
    for (BLOCK = 0; BLOCK < blocks; ++BLOCK) kernel(*(P*)arguments[I]...);
}

template <class... P>
static void run(void (*kernel)(P...), u32 blocks, void** arguments) {
    call(kernel, blocks, arguments, std::index_sequence_for<P...>());
}

// Returns 0 if there is such a kernel.
extern "C" int launch(const char* name, u32 blocks, void** arguments) {
#define IS(kernel) \
    if (!std::strcmp(name, #kernel)) return run(kernel, blocks, arguments), 0;
    IS(cut_samples) IS(take_samples) IS(activate) IS(activate_pool) IS(logits) IS(loss_gradient)
    IS(finish_loss) IS(count_pixels) IS(add_counts) IS(gate) IS(gate_pool) IS(sum_biases) IS(adam)
    IS(gather_gradients) IS(copy_kernels) IS(expand_kernels)
    return 1;
}

// The convolution itself, as cuDNN defines it: NHWC images, KRSC kernels, cross-correlation, f32
// sums. `pass`: 0 y from x and w, 1 dx from w and dy, 2 dw from x and dy.
extern "C" void convolve(int pass, const u32* shape, Value* x, Value* w, Value* y) {
    const u32 n = shape[0], h = shape[1], width = shape[2], c = shape[3];
    const u32 k = shape[4], side = shape[5], pad = shape[6];
    const u32 oh = h + 2 * pad - side + 1, ow = width + 2 * pad - side + 1;
    const u64 xs = (u64)n * h * width * c, ws = (u64)k * side * side * c, ys = (u64)n * oh * ow * k;
    float *fx = new float[xs], *fw = new float[ws], *fy = new float[ys];
    auto read = [](float* to, const Value* from, u64 len, bool want) {
        for (u64 i = 0; i < len; ++i) to[i] = want ? widen(from[i]) : 0.0f;
    };
    read(fx, x, xs, pass != 1), read(fw, w, ws, pass != 2), read(fy, y, ys, pass != 0);
    for (u32 image = 0; image < n; ++image)
        for (u32 row = 0; row < oh; ++row)
            for (u32 column = 0; column < ow; ++column)
                for (u32 r = 0; r < side; ++r)
                    for (u32 s = 0; s < side; ++s) {
                        const int from_row = (int)(row + r) - (int)pad;
                        const int from_column = (int)(column + s) - (int)pad;
                        if (from_row < 0 || from_row >= (int)h) continue;
                        if (from_column < 0 || from_column >= (int)width) continue;
                        float* px = fx + (((u64)image * h + from_row) * width + from_column) * c;
                        float* py = fy + (((u64)image * oh + row) * ow + column) * k;
                        for (u32 o = 0; o < k; ++o) {
                            float* pw = fw + (((u64)o * side + r) * side + s) * c;
                            const float g = py[o];
                            if (pass == 0) {
                                float sum = 0.0f;
                                for (u32 i = 0; i < c; ++i) sum += px[i] * pw[i];
                                py[o] += sum;
                            } else if (g != 0.0f && pass == 1) {
                                for (u32 i = 0; i < c; ++i) px[i] += g * pw[i];
                            } else if (g != 0.0f) {
                                for (u32 i = 0; i < c; ++i) pw[i] += g * px[i];
                            }
                        }
                    }
    auto write = [](Value* to, const float* from, u64 len) {
        for (u64 i = 0; i < len; ++i) to[i] = narrow(from[i]);
    };
    pass == 0 ? write(y, fy, ys) : pass == 1 ? write(x, fx, xs) : write(w, fw, ws);
    delete[] fx, delete[] fw, delete[] fy;
}

extern "C" u32 value_bytes() { return sizeof(Value); }
extern "C" u32 view_bytes() { return sizeof(View); }
extern "C" u32 cut_bytes() { return sizeof(Cut); }
extern "C" u32 segment_bytes() { return sizeof(Segment); }
