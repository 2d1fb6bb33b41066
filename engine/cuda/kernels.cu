/* Kernels of the exact search on a GPU: what kernels.py says for NumPy, one thread's work each.

   Only C, without shared memory, shuffles or atomics: the tests compile this file for the CPU as well. Fused
   multiply-adds are written as such and the compilers may make no others, so both compute the same bits.
   Images are innermost where many are sampled: then the 32 threads of a warp, an image each, share the entry of
   the interpolation table, read a tap as one run of 128 bytes and write a column range of the spectra as another.

   IMAGES_A_THREAD, ORBITS_A_THREAD and DIRECT_LANES come from plan.py. Blocks of images are multiples of
   32 * IMAGES_A_THREAD. Letters as in ARCHITECTURE.md; `columns` are (rotation of the panel, image). */

#ifndef KERNEL
#define KERNEL extern "C" __global__
#define INSIDE static __device__ __forceinline__
#define ALIGNED __align__(16)
#endif

/* Bilinear interpolation of a neuron pixel: upper left of four image pixels, -1 outside the image. */
typedef struct ALIGNED {
    int index;
    float row_fraction;
    float column_fraction;
    int padding;
} Tap;

INSIDE float interpolate(const float *plane, size_t stride, Tap tap, int side)
{
    /* Read in any case: a branch would keep the loads of one tap waiting for another's. */
    const float *at = plane + (size_t)(tap.index < 0 ? 0 : tap.index) * stride;
    const float fy = tap.row_fraction, fx = tap.column_fraction;
    const float cy = 1.0f - fy, cx = 1.0f - fx;
    const float upper = fmaf(cy * fx, at[stride], (cy * cx) * at[0]);
    const float lower = fmaf(fy * cx, at[(size_t)side * stride], upper);
    const float value = fmaf(fy * fx, at[(size_t)(side + 1) * stride], lower);
    return tap.index < 0 ? 0.0f : value;
}

/* Images (B', pixels) of a block of `batch` to (pixels, batch), zero beyond `count`; clears `finite` (batch,) of
   those that are not. */
KERNEL void image_innermost(const float *__restrict__ images, int count, int batch, int pixels,
                            float *__restrict__ inner, int *__restrict__ finite)
{
    const int b = blockIdx.y * 32 + threadIdx.x;
    const int p = blockIdx.x * blockDim.y + threadIdx.y;
    if (p >= pixels)
        return;
    const float value = b < count ? images[(size_t)b * pixels + p] : 0.0f;
    inner[(size_t)p * batch + b] = value;
    if (!(value - value == 0.0f))
        finite[b] = 0;
}

/* Spectra of a panel of base rotations: scalars (4, C*O, columns), matrices (C*O, 2, 2, columns), of samples minus
   the template common (C, O). squares (chunks, columns): sums over the complete orbits of a chunk of one channel. */
KERNEL void sample_orbits(const float *__restrict__ inner, int batch, int channels, int side,
                          const Tap *__restrict__ taps, const float *__restrict__ common,
                          const float *__restrict__ weight, int orbits, int complete, int first, int rotations,
                          float *__restrict__ scalars, float *__restrict__ matrices, double *__restrict__ squares)
{
    const int per_channel = (orbits + ORBITS_A_THREAD - 1) / ORBITS_A_THREAD;
    const int chunk = blockIdx.x * blockDim.y + threadIdx.y;
    if (chunk >= channels * per_channel)
        return;
    const int c = chunk / per_channel, k = blockIdx.y;
    const int start = (chunk % per_channel) * ORBITS_A_THREAD;
    const int stop = start + ORBITS_A_THREAD < orbits ? start + ORBITS_A_THREAD : orbits;
    const int b = blockIdx.z * 32 * IMAGES_A_THREAD + threadIdx.x;
    const size_t columns = (size_t)rotations * batch, column = (size_t)k * batch + b;
    const size_t rows = (size_t)channels * orbits;
    const float *plane = inner + (size_t)c * side * side * batch + b;
    double total[IMAGES_A_THREAD];
    float v[IMAGES_A_THREAD][8];
    for (int i = 0; i < IMAGES_A_THREAD; i++)
        total[i] = 0.0;
    for (int o = start; o < stop; o++) {
        const Tap *own = taps + ((size_t)(first + k) * orbits + o) * 8;
        const size_t row = (size_t)c * orbits + o;
        const float shared = common[row];
#pragma unroll
        for (int g = 0; g < 8; g++) {
            const Tap tap = own[g];
#pragma unroll
            for (int i = 0; i < IMAGES_A_THREAD; i++)
                v[i][g] = interpolate(plane + 32 * i, batch, tap, side) - shared;
        }
#pragma unroll
        for (int i = 0; i < IMAGES_A_THREAD; i++) {
            const float *u = v[i];
            const float e0 = u[0] + u[4], e1 = u[1] + u[5], e2 = u[2] + u[6], e3 = u[3] + u[7];
            const float o0 = u[0] - u[4], o1 = u[1] - u[5], o2 = u[2] - u[6], o3 = u[3] - u[7];
            float *one = scalars + row * columns + column + 32 * i;
            float *two = matrices + 4 * row * columns + column + 32 * i;
            one[0] = (e0 + e2) + (e1 + e3);
            one[rows * columns] = (e0 + e2) - (e1 + e3);
            one[2 * rows * columns] = (o0 + o2) + (o1 + o3);
            one[3 * rows * columns] = (o0 + o2) - (o1 + o3);
            two[0] = e0 - e2;
            two[columns] = e3 - e1;
            two[2 * columns] = o1 - o3;
            two[3 * columns] = o0 - o2;
            if (o < complete) {
                const float half = fmaf(u[0], u[0], u[1] * u[1]) + fmaf(u[2], u[2], u[3] * u[3]);
                const float rest = fmaf(u[4], u[4], u[5] * u[5]) + fmaf(u[6], u[6], u[7] * u[7]);
                total[i] += (double)((half + rest) * weight[o]);
            }
        }
    }
    for (int i = 0; i < IMAGES_A_THREAD; i++)
        squares[(size_t)chunk * columns + column + 32 * i] = total[i];
}

/* Orbits that lie partly in the region: their squares after each of the eight symmetries, (chunks, 8, columns). Bit g
   of seen (O, 8) says whether symmetry h brings the sample of place g into the region. */
KERNEL void square_edges(const float *__restrict__ inner, int batch, int channels, int side,
                         const Tap *__restrict__ taps, const float *__restrict__ common,
                         const float *__restrict__ weight, const unsigned char *__restrict__ seen, int orbits,
                         int complete, int first, int rotations, double *__restrict__ edges)
{
    const int per_channel = (orbits - complete + ORBITS_A_THREAD - 1) / ORBITS_A_THREAD;
    const int chunk = blockIdx.x * blockDim.y + threadIdx.y;
    if (chunk >= channels * per_channel)
        return;
    const int c = chunk / per_channel, k = blockIdx.y;
    const int start = complete + (chunk % per_channel) * ORBITS_A_THREAD;
    const int stop = start + ORBITS_A_THREAD < orbits ? start + ORBITS_A_THREAD : orbits;
    const int b = blockIdx.z * 32 + threadIdx.x;
    const float *plane = inner + (size_t)c * side * side * batch + b;
    double total[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int o = start; o < stop; o++) {
        const Tap *own = taps + ((size_t)(first + k) * orbits + o) * 8;
        const float shared = common[c * orbits + o];
#pragma unroll
        for (int g = 0; g < 8; g++) {
            const float value = interpolate(plane, batch, own[g], side) - shared;
            const double square = (double)(value * value * weight[o]);
#pragma unroll
            for (int h = 0; h < 8; h++)
                if (seen[o * 8 + h] >> g & 1)
                    total[h] += square;
        }
    }
    const size_t columns = (size_t)rotations * batch, column = (size_t)k * batch + b;
    for (int h = 0; h < 8; h++)
        edges[((size_t)chunk * 8 + h) * columns + column] = total[h];
}

/* |r|^2 of the panel into norms (8, R/4, batch), its chunks added in order. */
KERNEL void add_norms(const double *__restrict__ squares, int chunks, const double *__restrict__ edges,
                      int edge_chunks, int batch, int first, int rotations, int base_rotations,
                      double *__restrict__ norms)
{
    const size_t columns = (size_t)rotations * batch;
    const size_t column = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int h = blockIdx.y;
    if (column >= columns)
        return;
    double total = 0.0;
    for (int i = 0; i < chunks; i++)
        total += squares[(size_t)i * columns + column];
    for (int i = 0; i < edge_chunks; i++)
        total += edges[((size_t)i * 8 + h) * columns + column];
    norms[((size_t)h * base_rotations + first) * batch + column] = total;
}

/* Products of a panel, scalars (4, N, columns) and matrices (N, 2, 2, columns), folded into the running minimum over
   transforms: best, best_t, best_product (N, batch). Equal values keep the lower transform. */
KERNEL void fold_minimum(const float *__restrict__ scalars, const float *__restrict__ matrices,
                         const double *__restrict__ norms, int batch, int neurons, int first, int rotations,
                         int base_rotations, int all_rotations, int quarters, int flips, float *__restrict__ best,
                         int *__restrict__ best_t, float *__restrict__ best_product)
{
    const int b = blockIdx.x * 32 + threadIdx.x, n = blockIdx.y * blockDim.y + threadIdx.y;
    if (n >= neurons)
        return;
    const size_t columns = (size_t)rotations * batch, own = (size_t)n * batch + b;
    const size_t next = (size_t)neurons * columns;
    float least = best[own], product = best_product[own];
    int chosen = best_t[own];
    for (int k = 0; k < rotations; k++) {
        const size_t column = (size_t)k * batch + b;
        const float *one = scalars + (size_t)n * columns + column;
        const float *two = matrices + (size_t)n * 4 * columns + column;
        const float s0 = one[0], s1 = one[next], s2 = one[2 * next], s3 = one[3 * next];
        const float m00 = two[0], m01 = two[columns], m10 = two[2 * columns], m11 = two[3 * columns];
        const float even = s0 + s1, odd = s0 - s1, even_flip = s2 + s3, odd_flip = s2 - s3;
        const float trace = m00 + m11, twist = m10 - m01, trace_flip = m00 - m11, twist_flip = -(m01 + m10);
        float value[8];
        value[0] = (even + even_flip) + trace;
        value[1] = (odd + odd_flip) + twist;
        value[2] = (even + even_flip) - trace;
        value[3] = (odd + odd_flip) - twist;
        value[4] = (even - even_flip) + trace_flip;
        value[5] = (odd - odd_flip) + twist_flip;
        value[6] = (even - even_flip) - trace_flip;
        value[7] = (odd - odd_flip) - twist_flip;
#pragma unroll
        for (int h = 0; h < 8; h++) {
            if (h / 4 < flips && h % 4 < quarters) {
                const size_t place = ((size_t)h * base_rotations + first + k) * batch + b;
                const float d = (float)norms[place] + value[h];
                const int t = h / 4 * all_rotations + h % 4 * base_rotations + first + k;
                if (d < least || (d == least && t < chosen)) {
                    least = d;
                    chosen = t;
                    product = value[h];
                }
            }
        }
    }
    best[own] = least;
    best_t[own] = chosen;
    best_product[own] = product;
}

/* squared and scale (batch, N) float64: |r|^2 + |w|^2 - 2 <r, w> at the best transform, and |r|^2 + |w|^2. */
KERNEL void squared_distances(const float *__restrict__ best_product, const int *__restrict__ best_t,
                              const double *__restrict__ norms, const double *__restrict__ neuron_norms, int batch,
                              int neurons, int base_rotations, int all_rotations, double *__restrict__ squared,
                              double *__restrict__ scale, int *__restrict__ transform)
{
    const int n = blockIdx.x * 32 + threadIdx.x, b = blockIdx.y * blockDim.y + threadIdx.y;
    if (n >= neurons)
        return;
    const size_t from = (size_t)n * batch + b, to = (size_t)b * neurons + n;
    const int t = best_t[from], turn = t % all_rotations;
    const int h = 4 * (t / all_rotations) + turn / base_rotations, k = turn % base_rotations;
    const double sum = norms[((size_t)h * base_rotations + k) * batch + b] + neuron_norms[n];
    scale[to] = sum;
    squared[to] = sum + (double)best_product[from];
    transform[to] = t;
}

/* Direct sums of squares of triples (image row, neuron, transform): partial (triples, DIRECT_LANES) float64.
   images (B', C, H*H), image outermost: the lanes of a triple read one image. places (O, 8): neuron pixel, -1
   outside the region; product (8, 8): PRODUCT of dihedral.py. */
KERNEL void direct_sums(const float *__restrict__ images, const float *__restrict__ weights, int channels, int side,
                        int pixels, const Tap *__restrict__ taps, const float *__restrict__ weight,
                        const int *__restrict__ places, const int *__restrict__ product, int orbits,
                        int base_rotations, int all_rotations, const int *__restrict__ rows,
                        const int *__restrict__ neurons, const int *__restrict__ transforms,
                        double *__restrict__ partial)
{
    const int i = blockIdx.x, lane = threadIdx.x;
    const int t = transforms[i], turn = t % all_rotations;
    const int h = 4 * (t / all_rotations) + turn / base_rotations, k = turn % base_rotations;
    double total = 0.0;
    for (int c = 0; c < channels; c++) {
        const float *plane = images + ((size_t)rows[i] * channels + c) * side * side;
        const float *neuron = weights + ((size_t)neurons[i] * channels + c) * pixels;
        for (int o = lane; o < orbits; o += DIRECT_LANES) {
            const Tap *own = taps + ((size_t)k * orbits + o) * 8;
            double sum = 0.0;
#pragma unroll
            for (int g = 0; g < 8; g++) {
                const int pixel = places[o * 8 + g];
                const double w = (double)neuron[pixel < 0 ? 0 : pixel];
                const double difference = (double)interpolate(plane, 1, own[product[g * 8 + h]], side) - w;
                sum = pixel < 0 ? sum : fma(difference, difference, sum);
            }
            total = fma((double)weight[o], sum, total);
        }
    }
    partial[(size_t)i * DIRECT_LANES + lane] = total;
}

/* One image (C, H*H), all base rotations: float32 samples, transformed and squared in float64. scalars (4, C*O, R/4),
   matrices (C*O, 2, 2, R/4), squares (chunks, 8, R/4) by symmetry, complete orbits too. */
KERNEL void sample_double(const float *__restrict__ image, int channels, int side, const Tap *__restrict__ taps,
                          const float *__restrict__ weight, const unsigned char *__restrict__ seen, int orbits,
                          int base_rotations, double *__restrict__ scalars, double *__restrict__ matrices,
                          double *__restrict__ squares)
{
    const int per_channel = (orbits + ORBITS_A_THREAD - 1) / ORBITS_A_THREAD;
    const int k = blockIdx.x * 32 + threadIdx.x, chunk = blockIdx.y * blockDim.y + threadIdx.y;
    if (k >= base_rotations || chunk >= channels * per_channel)
        return;
    const int c = chunk / per_channel, start = (chunk % per_channel) * ORBITS_A_THREAD;
    const int stop = start + ORBITS_A_THREAD < orbits ? start + ORBITS_A_THREAD : orbits;
    const size_t columns = base_rotations, rows = (size_t)channels * orbits;
    const float *plane = image + (size_t)c * side * side;
    double total[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int o = start; o < stop; o++) {
        const Tap *own = taps + ((size_t)k * orbits + o) * 8;
        double u[8];
#pragma unroll
        for (int g = 0; g < 8; g++) {
            u[g] = (double)interpolate(plane, 1, own[g], side);
            const double square = u[g] * u[g] * (double)weight[o];
#pragma unroll
            for (int h = 0; h < 8; h++)
                if (seen[o * 8 + h] >> g & 1)
                    total[h] += square;
        }
        const double e0 = u[0] + u[4], e1 = u[1] + u[5], e2 = u[2] + u[6], e3 = u[3] + u[7];
        const double o0 = u[0] - u[4], o1 = u[1] - u[5], o2 = u[2] - u[6], o3 = u[3] - u[7];
        const size_t row = (size_t)c * orbits + o;
        double *one = scalars + row * columns + k;
        double *two = matrices + 4 * row * columns + k;
        one[0] = (e0 + e2) + (e1 + e3);
        one[rows * columns] = (e0 + e2) - (e1 + e3);
        one[2 * rows * columns] = (o0 + o2) + (o1 + o3);
        one[3 * rows * columns] = (o0 + o2) - (o1 + o3);
        two[0] = e0 - e2;
        two[columns] = e3 - e1;
        two[2 * columns] = o1 - o3;
        two[3 * columns] = o0 - o2;
    }
    for (int h = 0; h < 8; h++)
        squares[((size_t)chunk * 8 + h) * columns + k] = total[h];
}
