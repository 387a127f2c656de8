// The parts of a training step that torch does slowly on a CPU, in float32, forward and backward.
//
// attention, with rotary positions: at the small heads of small models (16 wide by default) torch's
// fused kernel takes a third of a step here: it is made of matrix products, which are too small to
// pay, and it works on pairs of tokens that causality then hides. Here each head of each sequence
// is one task that stays in the cache, keys lie transposed so that a vector holds neighbouring
// keys, and positions are rotated on the way in and back on the way out. The softmax is taken as in
// FlashAttention (Dao et al., 2022): of each row only the logarithm of its sum is kept, and the
// backward pass computes the row again from it. Exponentials and logarithms are of base 2.
//
// project and mlp, matrix products with what comes before and after them: norm, gate, dropout and the
// stream. Torch writes each of these to memory and reads it again, and waits there.
//
// norm (RMSNorm) and dropout: one pass over memory each way, where torch makes several.
//
// orthogonalise, of Muon's steps: half the work of torch's products, which cannot be told that
// theirs are symmetric.
//
// Every sum is made in a fixed order, by one thread at a time, so results do not depend on how many there are.
// Needs GCC's vector extensions (GCC or Clang). Built on demand by kernels.py; never required.

#if defined(__AVX__)
#include <immintrin.h>
#endif
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define BLOCK (2 * LANES)  // keys at a time
#define ROWS 4             // queries that share one pass over the keys
#define PANEL 8            // queries whose gradients reach the keys together; LANES is a multiple
#define MASKED -1e30f
#define LOG2_E 1.44269504f

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float half_vec __attribute__((vector_size(32), aligned(4)));  // 8 along a head

// Holds a value in a register: GCC would rather read it again for each use.
#if defined(__AVX__)
#define KEEP(x) __asm__("" : "+x"(x))
#else
#define KEEP(x) (void)(x)
#endif

#define INLINE static inline __attribute__((always_inline))

INLINE vec splat(float x) { return x - (vec){}; }

// The second where one is not a number. GCC makes a comparison and a choice of the general form.
#if defined(__AVX512F__)
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
#else
INLINE vec larger(vec a, vec b) {
  ivec which = a > b;
  return (vec)((which & (ivec)a) | (~which & (ivec)b));
}
#endif

// 2^x for x <= 0, to about 2 units in the last place; what is not a number stays so. Where x is the
// whole number n plus f, it is 2^n, made of n's bits, times a polynomial for 2^f: the one of degree
// 6 that is 1 at 0 and whose greatest relative error over [-0.5, 0.5] is least, 2e-9.
INLINE vec power_of_2(vec x) {
  x = larger(splat(-126.0f), x);
  vec t = x + 12582912.0f;  // adding 1.5 * 2^23 rounds to a whole number
  vec f = x - (t - 12582912.0f);
  vec p = splat(1.5353362e-4f);
  p = p * f + 1.3398874e-3f;
  p = p * f + 9.6184374e-3f;
  p = p * f + 5.5503325e-2f;
  p = p * f + 2.4022648e-1f;
  p = p * f + 6.9314720e-1f;
  p = p * f + 1.0f;
  return (vec)((ivec)p + ((ivec)t << 23));
}

// x, with `by` in the lanes after `last`.
INLINE vec hide(vec x, float by, int64_t last) {
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  ivec which = lane > (int32_t)last;
  return (vec)((which & (ivec)splat(by)) | (~which & (ivec)x));
}

INLINE float vsum(vec x) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += x[i];
  return total;
}

// One head of one sequence, and the buffers that its task works in. Rows beyond the T tokens are
// zero, so that only whole groups of rows are ever worked on.
typedef struct {
  int64_t T, padded, stride;  // tokens; floats between rows of what is transposed; and of qkv
  float *q, *k, *v;           // (tokens, D); q and k rotated, q scaled for powers of 2
  float *kt, *vt;             // (D, tokens)
  float *dq, *dk, *dv;        // (tokens, D)
  float *dy;                  // (PANEL, D)
  float *p, *ds;              // (PANEL, tokens)
} head;

INLINE void rotate(float *restrict to, const float *restrict from, const float *cos,
                   const float *sin, float scale, int D) {
  for (int i = 0; i < D / 2; i++) {
    float a = from[i], b = from[i + D / 2];
    to[i] = (a * cos[i] - b * sin[i]) * scale;
    to[i + D / 2] = (a * sin[i] + b * cos[i]) * scale;
  }
}

INLINE void rotate_back(float *restrict to, const float *restrict from, const float *cos,
                        const float *sin, float scale, int D) {
  for (int i = 0; i < D / 2; i++) {
    float a = from[i], b = from[i + D / 2];
    to[i] = (a * cos[i] + b * sin[i]) * scale;
    to[i + D / 2] = (b * cos[i] - a * sin[i]) * scale;
  }
}

INLINE void transpose(float *to, const float *from, int64_t T, int64_t padded, int D) {
  for (int64_t t = 0; t < T; t++)
    for (int d = 0; d < D; d++) to[d * padded + t] = from[t * D + d];
}

INLINE void read_head(head *h, const float *qkv, const float *cos, const float *sin, int64_t H,
                      int backward, int D) {
  float scale = LOG2_E / sqrtf((float)D);
  for (int64_t t = 0; t < h->T; t++) {
    const float *row = qkv + t * h->stride, *c = cos + t * D / 2, *s = sin + t * D / 2;
    rotate(h->q + t * D, row, c, s, scale, D);
    rotate(h->k + t * D, row + H * D, c, s, 1.0f, D);
    memcpy(h->v + t * D, row + 2 * H * D, D * sizeof(float));
  }
  transpose(h->kt, h->k, h->T, h->padded, D);
  if (backward) transpose(h->vt, h->v, h->T, h->padded, D);
}

// to = a b for ROWS rows and BLOCK columns. a is read `across` (from row to row) and `along`, over n;
// rows of b lie `down` apart, those of `to` `wide`.
INLINE void tile(float *to, int64_t wide, const float *a, int64_t across, int64_t along,
                 const float *b, int64_t down, int64_t n) {
  vec low[ROWS] = {}, high[ROWS] = {};
  for (int64_t k = 0; k < n; k++) {
    vec x = *(const vec *)(b + k * down), y = *(const vec *)(b + k * down + LANES);
    KEEP(x);
    KEEP(y);
    for (int r = 0; r < ROWS; r++) {
      low[r] += a[r * across + k * along] * x, high[r] += a[r * across + k * along] * y;
    }
  }
  for (int r = 0; r < ROWS; r++) {
    *(vec *)(to + r * wide) = low[r];
    *(vec *)(to + r * wide + LANES) = high[r];
  }
}

// rows[r][j] = a[r] . bt[:, j] for ROWS rows and all j < end.
INLINE void products(float *rows, const float *a, const float *bt, int64_t padded, int64_t end,
                     int D) {
  for (int64_t j = 0; j < end; j += BLOCK) tile(rows + j, padded, a, D, 1, bt + j, padded, D);
}

// out[r] = (out[r] if `more`, +) sum over i < n of w[r * across + i * along] * b[i], for ROWS rows.
INLINE void weighted(float *out, const float *w, int64_t across, int64_t along, const float *b,
                     int64_t n, int more, int D) {
  for (int d = 0; d < D; d += 8 * (1 + (D > 8))) {
    half_vec low[ROWS] = {}, high[ROWS] = {};
    if (more)
      for (int r = 0; r < ROWS; r++) {
        low[r] = *(const half_vec *)(out + r * D + d);
        if (D > 8) high[r] = *(const half_vec *)(out + r * D + d + 8);
      }
    for (int64_t i = 0; i < n; i++) {
      half_vec x = *(const half_vec *)(b + i * D + d);
      half_vec y = D > 8 ? *(const half_vec *)(b + i * D + d + 8) : x;
      KEEP(x);
      KEEP(y);
      for (int r = 0; r < ROWS; r++) {
        low[r] += w[r * across + i * along] * x;
        if (D > 8) high[r] += w[r * across + i * along] * y;
      }
    }
    for (int r = 0; r < ROWS; r++) {
      *(half_vec *)(out + r * D + d) = low[r];
      if (D > 8) *(half_vec *)(out + r * D + d + 8) = high[r];
    }
  }
}

INLINE int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

INLINE void forward_rows(head *h, float *y, float *lse, int64_t first, int64_t H, int D) {
  int64_t end = whole(first + ROWS, BLOCK), last = whole(first + ROWS, LANES) - LANES;
  int64_t padded = h->padded;
  float out[ROWS * D];
  products(h->p, h->q + first * D, h->kt, padded, end, D);
  for (int r = 0; r < ROWS; r++) {
    float *p = h->p + r * padded, highest = MASKED;
    *(vec *)(p + last) = hide(*(vec *)(p + last), MASKED, first + r - last);
    vec most = splat(MASKED), sum = {}, odd = {};  // odd: 0, or NaN if a score is no number
    for (int64_t j = 0; j <= last; j += LANES) {
      vec s = *(vec *)(p + j);
      odd += s - s;
      most = larger(s, most);
    }
    for (int i = 0; i < LANES; i++) highest = most[i] > highest ? most[i] : highest;
    for (int64_t j = 0; j <= last; j += LANES) {
      vec e = power_of_2(*(vec *)(p + j) - highest);
      *(vec *)(p + j) = e;
      sum += e;
    }
    float total = vsum(sum) + vsum(odd);  // a run that diverges must show it
    if (first + r < h->T) lse[first + r] = highest + log2f(total);
    h->ds[r] = 1.0f / total;
  }
  weighted(out, h->p, padded, 1, h->v, first + ROWS, 0, D);
  for (int r = 0; r < ROWS && first + r < h->T; r++)
    for (int d = 0; d < D; d++) y[(first + r) * H * D + d] = out[r * D + d] * h->ds[r];
}

INLINE void backward_panel(head *h, const float *dy, const float *y, const float *lse,
                           int64_t first, int64_t H, int D) {
  int64_t end = whole(first + PANEL, BLOCK), last = whole(first + PANEL, LANES) - LANES;
  int64_t padded = h->padded;
  float delta[PANEL] = {}, log_sum[PANEL] = {};
  memset(h->dy, 0, PANEL * D * sizeof(float));
  for (int r = 0; r < PANEL && first + r < h->T; r++) {
    log_sum[r] = lse[first + r];
    memcpy(h->dy + r * D, dy + (first + r) * H * D, D * sizeof(float));
    for (int d = 0; d < D; d++) delta[r] += h->dy[r * D + d] * y[(first + r) * H * D + d];
  }
  for (int group = 0; group < PANEL; group += ROWS) {
    products(h->p + group * padded, h->q + (first + group) * D, h->kt, padded, end, D);
    products(h->ds + group * padded, h->dy + group * D, h->vt, padded, end, D);
  }
  for (int r = 0; r < PANEL; r++) {
    float *p = h->p + r * padded, *ds = h->ds + r * padded;
    for (int64_t j = 0; j <= last; j += LANES) {
      vec e = power_of_2(*(vec *)(p + j) - log_sum[r]);
      *(vec *)(p + j) = e;
      *(vec *)(ds + j) = e * (*(vec *)(ds + j) - delta[r]);
    }
    *(vec *)(p + last) = hide(*(vec *)(p + last), 0, first + r - last);
    *(vec *)(ds + last) = hide(*(vec *)(ds + last), 0, first + r - last);
  }
  for (int group = 0; group < PANEL; group += ROWS)
    weighted(h->dq + (first + group) * D, h->ds + group * padded, padded, 1, h->k, first + PANEL, 0,
             D);
  for (int64_t j = 0; j < first + PANEL; j += ROWS) {
    weighted(h->dv + j * D, h->p + j, 1, padded, h->dy, PANEL, 1, D);
    weighted(h->dk + j * D, h->ds + j, 1, padded, h->q + first * D, PANEL, 1, D);
  }
}

INLINE void write_head(const head *h, float *dqkv, const float *cos, const float *sin, int64_t H,
                       int D) {
  for (int64_t t = 0; t < h->T; t++) {
    float *out = dqkv + t * h->stride;
    const float *c = cos + t * D / 2, *s = sin + t * D / 2;
    rotate_back(out, h->dq + t * D, c, s, 1.0f / sqrtf((float)D), D);
    rotate_back(out + H * D, h->dk + t * D, c, s, 1.0f / LOG2_E, D);
    memcpy(out + 2 * H * D, h->dv + t * D, D * sizeof(float));
  }
}

INLINE int attend(int backward, const float *qkv, const float *cos, const float *sin, float *y,
                  float *lse, const float *dy, float *dqkv, int64_t B, int64_t T, int64_t H,
                  int D) {
  int64_t padded = whole(T + PANEL, BLOCK), size;
  int failed = 0;
  if (padded % 256 == 0) padded += BLOCK;  // or what is transposed shares few places of the cache
  size = padded * D;
#pragma omp parallel reduction(| : failed)
  {
    float *space = calloc(8 * size + PANEL * D + 2 * PANEL * padded, sizeof(float));
    failed = space == NULL;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < B * H; task++) {
      if (failed) continue;
      int64_t b = task / H, n = task % H, place = (b * T * H + n) * D;
      head h = {T, padded, 3 * H * D, space, space + size, space + 2 * size, space + 3 * size,
                space + 4 * size, space + 5 * size, space + 6 * size, space + 7 * size,
                space + 8 * size, space + 8 * size + PANEL * D,
                space + 8 * size + PANEL * D + PANEL * padded};
      read_head(&h, qkv + b * T * h.stride + n * D, cos, sin, H, backward, D);
      if (backward) {
        memset(h.dk, 0, 2 * size * sizeof(float));
        for (int64_t first = 0; first < T; first += PANEL)
          backward_panel(&h, dy + place, y + place, lse + task * T, first, H, D);
        write_head(&h, dqkv + b * T * h.stride + n * D, cos, sin, H, D);
      } else {
        for (int64_t first = 0; first < T; first += ROWS)
          forward_rows(&h, y + place, lse + task * T, first, H, D);
      }
    }
    free(space);
  }
  return failed;
}

// 0, 1 if there was no memory, or 2 if heads of this width are not for this file.
#define FOR_EACH_WIDTH(call) \
  switch (D) {               \
    case 8: return call(8);  \
    case 16: return call(16); \
    case 32: return call(32); \
    case 64: return call(64); \
    default: return 2;       \
  }

int attention_forward(const float *qkv, const float *cos, const float *sin, float *y, float *lse,
                      int64_t B, int64_t T, int64_t H, int64_t D) {
#define FORWARD(width) attend(0, qkv, cos, sin, y, lse, NULL, NULL, B, T, H, width)
  FOR_EACH_WIDTH(FORWARD)
}

int attention_backward(const float *qkv, const float *cos, const float *sin, float *y, float *lse,
                       const float *dy, float *dqkv, int64_t B, int64_t T, int64_t H, int64_t D) {
#define BACKWARD(width) attend(1, qkv, cos, sin, y, lse, dy, dqkv, B, T, H, width)
  FOR_EACH_WIDTH(BACKWARD)
}

// --- RMSNorm: y = x * scale, scale = 1 / sqrt(mean(x^2) + eps), for each row of (N, C) ---

INLINE float dot(const float *a, const float *b, int64_t n) {
  vec sums = {};
  float rest = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) sums += *(const vec *)(a + i) * *(const vec *)(b + i);
  for (; i < n; i++) rest += a[i] * b[i];
  return vsum(sums) + rest;
}

INLINE float norm_scale(const float *x, int64_t C, float eps) {
  return 1.0f / sqrtf(dot(x, x, C) / C + eps);
}

int norm_forward(const float *x, float *y, float *scale, float eps, int64_t N, int64_t C) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < N; row++) {
    const float *from = x + row * C;
    float by = scale[row] = norm_scale(from, C, eps);
    for (int64_t i = 0; i < C; i++) y[row * C + i] = from[i] * by;
  }
  return 0;
}

int norm_backward(const float *y, const float *scale, const float *dy, float *dx, int64_t N,
                   int64_t C) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < N; row++) {
    const float *out = y + row * C, *grad = dy + row * C;
    float mean = dot(out, grad, C) / C, by = scale[row];
    for (int64_t i = 0; i < C; i++) dx[row * C + i] = by * (grad[i] - out[i] * mean);
  }
  return 0;
}

// --- Dropout: y = x + branch * factor, factor 0 for a share of the elements ---

// 32 bits of chance for each lane, from its number and a seed of 64 bits: a multiplication, then
// the steps by which MurmurHash3 (Appleby, 2011) ends, so that any bits can be made again.
INLINE uvec chance(uint32_t first, uint64_t seed) {
  uvec h;
  for (int i = 0; i < LANES; i++) h[i] = i;
  h = (h + first) * 0x9E3779B1u + (uint32_t)seed;
  h = (h ^ h >> 16) * 0x85EBCA6Bu;
  h = (h ^ h >> 13 ^ (uint32_t)(seed >> 32)) * 0xC2B2AE35u;
  return h ^ h >> 16;
}

INLINE vec factor(uvec words, int32_t dropped, float scale) {
  ivec kept = (ivec)words >= dropped;
  return (vec)(kept & (ivec)splat(scale));
}

// A block of elements: one half of each lane's bits for the first LANES, the other for the rest.
INLINE void drop_block(const float *x, const float *branch, float *y, uvec bits, int32_t dropped,
                       float scale) {
  vec low = factor(bits & 0xFFFF, dropped, scale), high = factor(bits >> 16, dropped, scale);
  low *= *(const vec *)branch, high *= *(const vec *)(branch + LANES);
  if (x != NULL) low += *(const vec *)x, high += *(const vec *)(x + LANES);
  *(vec *)y = low, *(vec *)(y + LANES) = high;
}

// Elements from the `first` on, a multiple of BLOCK. Of 2^16 words, `dropped` drop their element; x
// may be NULL, for 0. The same seed, the same words.
INLINE void drop_range(const float *x, const float *branch, float *y, uint64_t seed,
                       int32_t dropped, float scale, int64_t first, int64_t n) {
  int64_t i = 0;
  for (; i + BLOCK <= n; i += BLOCK) {
    uvec bits = chance((first + i) / BLOCK * LANES, seed);
    drop_block(x == NULL ? NULL : x + i, branch + i, y + i, bits, dropped, scale);
  }
  if (i < n) {
    float last[3][BLOCK] = {};
    size_t size = (n - i) * sizeof(float);
    if (x != NULL) memcpy(last[0], x + i, size);
    memcpy(last[1], branch + i, size);
    uvec bits = chance((first + i) / BLOCK * LANES, seed);
    drop_block(last[0], last[1], last[2], bits, dropped, scale);
    memcpy(y + i, last[2], size);
  }
}

int dropout(const float *x, float *y, const int64_t *seed, int64_t dropped, float scale,
            int64_t N) {
  int64_t share = 64 * BLOCK;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < N; i += share)
    drop_range(NULL, x + i, y + i, *seed, dropped, scale, i, N - i < share ? N - i : share);
  return 0;
}

// --- Products: of tokens and weights, forward and backward, with what surrounds them ---
//
// project: y = onto + dropout(norm(x) W'), norm and onto only where asked for, W of (O, K)
// mlp:     y = x + dropout(silu(gate) * up W_out'), [gate, up] = norm(x) W_in'
//
// Each thread takes TOKENS rows at a time through all of it, which stay in its cache. Backward, what
// a normalised copy of x was is made again from x; gradients of weights are sums over all rows, so
// that threads share out their elements, for some blocks while others are made.
//
// What is multiplied lies in panels of LANES columns, (columns / LANES, rows, LANES), so that a tile
// reads in the order of memory. Columns and rows beyond the last are zero.

#define TOKENS 64  // a multiple of BLOCK
#define WIDE 3     // panels to a tile: with ROWS sums for each, all of AVX2's registers
#define DEEP 256   // products to a sum at a time: more panels would leave the nearest cache
#define SHARED 2   // times TOKENS rows of each thread are made, while as many are added up

// The first n of LANES elements, and zeros.
INLINE vec get(const float *from, int64_t n) {
  vec x = {};
  if (n >= LANES) return *(const vec *)from;
  for (int64_t i = 0; i < n; i++) x[i] = from[i];
  return x;
}

INLINE void put(float *to, vec x, int64_t n) {
  if (n >= LANES) *(vec *)to = x;
  for (int64_t i = 0; i < n && n < LANES; i++) to[i] = x[i];
}

// 1 / (1 + exp(-x)), by the exponential of a number that is not positive.
INLINE vec sigmoid(vec x) {
  vec e = power_of_2(-LOG2_E * larger(x, -x)), small = e / (1.0f + e);
  ivec positive = x > splat(0);
  return (vec)((positive & (ivec)(1.0f - small)) | (~positive & (ivec)small));
}

enum { AS_IT_IS, NORM, SWIGLU };

// n elements of what is to be multiplied, of a row that is K wide, from those at x.
INLINE vec prepared(const float *x, int64_t n, int64_t K, float scale, int before) {
  vec y = get(x, n);
  if (before == SWIGLU) return y * sigmoid(y) * get(x + K, n);
  return before == NORM ? y * scale : y;
}

// Panels of `rows` rows. A few rows at once, so that lines of the cache are written whole.
INLINE void make_panels(float *to, const float *x, const float *scales, int64_t rows, int64_t K,
                        int before) {
  int64_t wide = before == SWIGLU ? 2 * K : K;
  for (int64_t r = 0; r < rows; r += ROWS) {
    int64_t k = 0, n = rows - r < ROWS ? rows - r : ROWS;
    float by[ROWS] = {};
    for (int i = 0; i < n && before == NORM; i++) by[i] = scales[r + i];
    for (; n == ROWS && k + LANES <= K; k += LANES)
      for (int i = 0; i < ROWS; i++)
        *(vec *)(to + k * TOKENS + (r + i) * LANES) =
            prepared(x + (r + i) * wide + k, LANES, K, by[i], before);
    for (; k < K; k += LANES)
      for (int i = 0; i < n; i++)
        *(vec *)(to + k * TOKENS + (r + i) * LANES) =
            prepared(x + (r + i) * wide + k, K - k, K, by[i], before);
  }
  for (int64_t k = 0; k < K && rows < TOKENS; k += LANES)
    memset(to + k * TOKENS + rows * LANES, 0, (TOKENS - rows) * LANES * sizeof(float));
}

static void panels(float *to, const float *x, int64_t rows, int64_t K) {
  make_panels(to, x, NULL, rows, K, AS_IT_IS);
}

static void gated_panels(float *to, const float *x, int64_t rows, int64_t K) {
  make_panels(to, x, NULL, rows, K, SWIGLU);
}

static void normed_panels(float *to, float *scales, const float *x, int64_t rows, int64_t K,
                          float eps) {
  for (int64_t r = 0; r < rows; r++) scales[r] = norm_scale(x + r * K, K, eps);
  make_panels(to, x, scales, rows, K, NORM);
}

// dx = onto, where it is not NULL, + the gradient of rows of x, from `dy`, that of norm(x).
static void norm_back(float *dx, const float *dy, const float *x, const float *scales,
                      const float *onto, int64_t rows, int64_t K) {
  for (int64_t r = 0; r < rows; r++, dx += K, dy += K, x += K) {
    float by = scales[r], mean = by * by * dot(x, dy, K) / K;
    for (int64_t k = 0; k < K; k++) dx[k] = by * (dy[k] - x[k] * mean);
    for (int64_t k = 0; k < K && onto != NULL; k++) dx[k] += onto[r * K + k];
  }
}

// The gradients of [gate, up], and silu(gate) * up again, from dy.
static void swiglu_back(float *dx, float *y, const float *dy, const float *x, int64_t rows,
                        int64_t K) {
  for (int64_t r = 0; r < rows; r++, dx += 2 * K, y += K, dy += K, x += 2 * K)
    for (int64_t k = 0; k < K; k += LANES) {
      int64_t n = K - k;
      vec gate = get(x + k, n), up = get(x + K + k, n), grad = get(dy + k, n);
      vec open = sigmoid(gate), silu = gate * open;
      put(dx + k, grad * up * (open + silu * (1.0f - open)), n);
      put(dx + K + k, grad * silu, n);
      put(y + k, silu * up, n);
    }
}

// sum += a * b. GCC would overwrite a factor here and there, and then lack registers.
#if defined(__FMA__) && !defined(__AVX512F__)
#define MULTIPLY_ADD(sum, a, b) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#else
#define MULTIPLY_ADD(sum, a, b) sum += a * b
#endif

// One operand of a tile: where it begins, and how far it is from row to row, from product to product
// of a sum, and from LANES of those to the next.
typedef struct {
  const float *at;
  int64_t across, along, next;
} rows_of;

// to (+)= a b, for ROWS rows and W panels of columns, in sums of n products; b's panels lie `panel`
// apart.
INLINE void panel_tile(float *to, int64_t wide, rows_of a, const float *b, int64_t panel, int64_t n,
                       int more, int W) {
  vec sums[ROWS][WIDE];
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < W; w++)
      sums[r][w] = more ? *(const vec *)(to + r * wide + w * LANES) : (vec){};
  for (int64_t k = 0; k < n; k += LANES, a.at += a.next)
#pragma GCC unroll 1
    for (int64_t i = 0; i < LANES; i++, b += LANES) {
      vec x[WIDE];
      for (int w = 0; w < W; w++) {
        x[w] = *(const vec *)(b + w * panel);
        KEEP(x[w]);
      }
      for (int r = 0; r < ROWS; r++) {
        vec y = splat(a.at[r * a.across + i * a.along]);
        for (int w = 0; w < W; w++) MULTIPLY_ADD(sums[r][w], y, x[w]);
      }
    }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < W; w++) *(vec *)(to + r * wide + w * LANES) = sums[r][w];
}

// The same at an edge too, where `rows` and `columns` of it are there. Gives the columns it made.
INLINE int64_t edge_tile(float *to, int64_t wide, int64_t rows, int64_t columns, rows_of a,
                         const float *b, int64_t panel, int64_t n, int more) {
  int64_t panels = (columns + LANES - 1) / LANES, stride = wide;
  int W = panels == WIDE + 1 ? WIDE - 1 : panels < WIDE ? panels : WIDE;  // 2 and 2, not 3 and 1
  float part[ROWS * WIDE * LANES], *at = to;
  rows = rows < ROWS ? rows : ROWS, columns = columns < W * LANES ? columns : W * LANES;
  int partial = rows < ROWS || columns < W * LANES;
  if (partial) at = part, stride = WIDE * LANES;
  for (int64_t r = 0; r < rows && partial && more; r++)
    memcpy(part + r * stride, to + r * wide, columns * sizeof(float));
  if (W == 3) panel_tile(at, stride, a, b, panel, n, more, 3);
  if (W == 2) panel_tile(at, stride, a, b, panel, n, more, 2);
  if (W == 1) panel_tile(at, stride, a, b, panel, n, more, 1);
  for (int64_t r = 0; r < rows && partial; r++)
    memcpy(to + r * wide, part + r * stride, columns * sizeof(float));
  return columns;
}

// to = a b, for a of `rows` rows in a block and n columns, b of n rows.
static void product(float *to, int64_t rows, int64_t columns, const float *a, const float *b,
                    int64_t n) {
  int64_t parts = (n + DEEP - 1) / DEEP, step = whole((n + parts - 1) / parts, LANES), made;
  for (int64_t k = 0; k < n; k += step)
    for (int64_t j = 0; j < columns; j += made)
      for (int64_t r = 0; r < rows; r += ROWS) {
        rows_of left = {a + k * TOKENS + r * LANES, LANES, 1, TOKENS * LANES};
        made = edge_tile(to + r * columns + j, columns, rows - r, columns - j, left,
                         b + j * n + k * LANES, n * LANES, n - k < step ? n - k : step, k > 0);
      }
}

#define DOWN (8 * LANES)    // rows and columns of a weights' gradient that a thread takes at once
#define ACROSS (6 * LANES)

// The part of to (+)= a' b that begins at `row` and `column`. a and b are blocks of O and K columns.
static void add_product(float *to, int64_t row, int64_t column, int64_t O, int64_t K,
                        const float *a, const float *b, int more) {
  int64_t rows = O - row < DOWN ? O - row : DOWN, made;
  int64_t columns = K - column < ACROSS ? K - column : ACROSS;
  for (int64_t j = 0; j < columns; j += made)
    for (int64_t r = 0; r < rows; r += ROWS) {
      rows_of down = {a + (row + r) / LANES * LANES * TOKENS + (row + r) % LANES, 1, LANES,
                      LANES * LANES};
      made = edge_tile(to + (row + r) * K + column + j, K, rows - r, columns - j, down,
                       b + (column + j) * TOKENS, LANES * TOKENS, TOKENS, more);
    }
}

// Panels of a matrix of which rows lie `down` apart and columns `along`. By all threads.
static void pack(float *to, const float *from, int64_t rows, int64_t columns, int64_t down,
                 int64_t along) {
  int64_t padded = whole(rows, LANES);
#pragma omp for schedule(static)
  for (int64_t j = 0; j < columns; j += LANES)
    for (int64_t i = 0; i < padded; i++)
      for (int64_t l = 0; l < LANES; l++)
        to[j * padded + i * LANES + l] =
            i < rows && j + l < columns ? from[i * down + (j + l) * along] : 0;
}

INLINE float *room_for(int64_t floats) {
  return aligned_alloc(64, whole(floats * sizeof(float), 64));
}

// y = onto + what dropout leaves of x, n elements from the `first` on.
static void add_dropped(const float *onto, const float *x, float *y, const int64_t *seed,
                        int64_t dropped, float scale, int64_t first, int64_t n) {
  if (dropped) drop_range(onto, x, y, *seed, dropped, scale, first, n);
  for (int64_t i = 0; i < n && !dropped; i++) y[i] = onto[i] + x[i];
}

// Panels of a gradient of O columns where it passes dropout; `kept`: room for a block.
static void dropped_panels(float *to, const float *dy, float *kept, const int64_t *seed,
                           int64_t dropped, float scale, int64_t first, int64_t rows, int64_t O) {
  if (dropped) drop_range(NULL, dy, kept, *seed, dropped, scale, first * O, rows * O);
  panels(to, dropped ? kept : dy, rows, O);
}

// to (+)= a' b, (O, K), for the blocks from `start` on that are made: `shared`, or as many as there
// are left; none where start < 0. By all threads, which do not wait for the last of them.
static void add_products(float *to, const float *a, const float *b, int64_t O, int64_t K,
                         int64_t start, int64_t blocks, int64_t shared) {
  int64_t end = start + shared < blocks ? start + shared : blocks;
  int64_t a_block = TOKENS * whole(O, LANES), b_block = TOKENS * whole(K, LANES);
  if (start < 0) return;
#pragma omp for schedule(dynamic) collapse(2) nowait
  for (int64_t row = 0; row < O; row += DOWN)
    for (int64_t column = 0; column < K; column += ACROSS)
      for (int64_t i = start; i < end; i++) {
        int64_t place = i % (2 * shared);
        add_product(to, row, column, O, K, a + place * a_block, b + place * b_block, i > 0);
      }
}

// Nothing is dropped where onto is NULL.
int project_forward(const float *x, const float *weight, const float *onto, float *y,
                    const int64_t *seed, int64_t dropped, float scale, int64_t normed, float eps,
                    int64_t N, int64_t K, int64_t O) {
  int64_t deep = whole(K, LANES), packed = deep * whole(O, LANES);
  int64_t each = TOKENS * (deep + O + 1);
  float *space = room_for(packed + omp_get_max_threads() * each);
  if (space == NULL) return 1;
#pragma omp parallel
  {
    float *a = space + packed + omp_get_thread_num() * each, *out = a + TOKENS * deep;
    pack(space, weight, K, O, 1, K);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < N; first += TOKENS) {
      int64_t rows = N - first < TOKENS ? N - first : TOKENS, at = first * O;
      if (normed) normed_panels(a, out + TOKENS * O, x + first * K, rows, K, eps);
      else panels(a, x + first * K, rows, K);
      product(onto == NULL ? y + at : out, rows, O, a, space, deep);
      if (onto != NULL) add_dropped(onto + at, out, y + at, seed, dropped, scale, at, rows * O);
    }
  }
  free(space);
  return 0;
}

int project_backward(const float *x, const float *weight, const float *dy, float *dx,
                     float *dweight, const int64_t *seed, int64_t dropped, float scale,
                     int64_t normed, float eps, int64_t N, int64_t K, int64_t O) {
  int64_t deep = whole(K, LANES), tall = whole(O, LANES), blocks = (N + TOKENS - 1) / TOKENS;
  int64_t each = TOKENS * (K + O + 1), shared = SHARED * omp_get_max_threads();
  if (shared > blocks) shared = blocks;
  float *space = room_for(deep * tall + 2 * shared * TOKENS * (deep + tall) +
                          omp_get_max_threads() * each);
  if (space == NULL) return 1;
  float *as = space + deep * tall, *gs = as + 2 * shared * TOKENS * deep;
  float *own = gs + 2 * shared * TOKENS * tall;
#pragma omp parallel
  {
    float *da = own + omp_get_thread_num() * each, *kept = da + TOKENS * K;
    float *scales = kept + TOKENS * O;
    pack(space, weight, O, K, K, 1);
    for (int64_t start = 0; start < blocks + shared; start += shared) {
      int64_t end = start + shared < blocks ? start + shared : blocks, done = start - shared;
#pragma omp for schedule(dynamic) nowait
      for (int64_t i = start; i < end; i++) {
        float *a = as + i % (2 * shared) * TOKENS * deep, *g = gs + i % (2 * shared) * TOKENS * tall;
        int64_t first = i * TOKENS, rows = N - first < TOKENS ? N - first : TOKENS;
        const float *from = x + first * K;
        dropped_panels(g, dy + first * O, kept, seed, dropped, scale, first, rows, O);
        product(normed ? da : dx + first * K, rows, K, g, space, tall);
        if (normed) normed_panels(a, scales, from, rows, K, eps);
        else panels(a, from, rows, K);
        if (normed) norm_back(dx + first * K, da, from, scales, NULL, rows, K);
      }
      add_products(dweight, gs, as, O, K, done, blocks, shared);
#pragma omp barrier
    }
  }
  free(space);
  return 0;
}

// F: the width of gate and of up. hidden, (N, 2 F), holds both, for the way back.
int mlp_forward(const float *x, const float *w_in, const float *w_out, float *y, float *hidden,
                const int64_t *seed, int64_t dropped, float scale, float eps, int64_t N, int64_t C,
                int64_t F) {
  int64_t deep = whole(C, LANES), wide = whole(F, LANES), in = deep * whole(2 * F, LANES);
  int64_t packed = in + wide * deep, each = TOKENS * (deep + wide + C + 1);
  float *space = room_for(packed + omp_get_max_threads() * each);
  if (space == NULL) return 1;
#pragma omp parallel
  {
    float *a = space + packed + omp_get_thread_num() * each, *h = a + TOKENS * deep;
    float *out = h + TOKENS * wide, *scales = out + TOKENS * C;
    pack(space, w_in, C, 2 * F, 1, C);
    pack(space + in, w_out, F, C, 1, F);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < N; first += TOKENS) {
      int64_t rows = N - first < TOKENS ? N - first : TOKENS, at = first * C;
      normed_panels(a, scales, x + at, rows, C, eps);
      product(hidden + first * 2 * F, rows, 2 * F, a, space, deep);
      gated_panels(h, hidden + first * 2 * F, rows, F);
      product(out, rows, C, h, space + in, wide);
      add_dropped(x + at, out, y + at, seed, dropped, scale, at, rows * C);
    }
  }
  free(space);
  return 0;
}

int mlp_backward(const float *x, const float *w_in, const float *w_out, const float *hidden,
                 const float *dy, float *dx, float *dw_in, float *dw_out, const int64_t *seed,
                 int64_t dropped, float scale, float eps, int64_t N, int64_t C, int64_t F) {
  int64_t deep = whole(C, LANES), wide = whole(F, LANES), both = whole(2 * F, LANES);
  int64_t in = deep * both, packed = in + wide * deep, blocks = (N + TOKENS - 1) / TOKENS;
  int64_t each = TOKENS * (2 * C + 4 * F + 1), shared = SHARED * omp_get_max_threads();
  if (shared > blocks) shared = blocks;
  int64_t rows_shared = 2 * shared * TOKENS;
  float *space = room_for(packed + rows_shared * (2 * deep + both + wide) +
                          omp_get_max_threads() * each);
  if (space == NULL) return 1;
  float *as = space + packed, *gs = as + rows_shared * deep, *dhs = gs + rows_shared * deep;
  float *hs = dhs + rows_shared * both, *own = hs + rows_shared * wide;
#pragma omp parallel
  {
    float *da = own + omp_get_thread_num() * each, *kept = da + TOKENS * C;
    float *dgated = kept + TOKENS * C, *gated = dgated + TOKENS * F, *dh = gated + TOKENS * F;
    float *scales = dh + TOKENS * 2 * F;
    pack(space, w_in, 2 * F, C, C, 1);
    pack(space + in, w_out, C, F, F, 1);
    for (int64_t start = 0; start < blocks + shared; start += shared) {
      int64_t end = start + shared < blocks ? start + shared : blocks, done = start - shared;
#pragma omp for schedule(dynamic) nowait
      for (int64_t i = start; i < end; i++) {
        int64_t place = i % (2 * shared) * TOKENS;
        float *a = as + place * deep, *g = gs + place * deep;
        float *dh_panels = dhs + place * both, *h = hs + place * wide;
        int64_t first = i * TOKENS, rows = N - first < TOKENS ? N - first : TOKENS;
        int64_t at = first * C;
        dropped_panels(g, dy + at, kept, seed, dropped, scale, first, rows, C);
        product(dgated, rows, F, g, space + in, deep);
        swiglu_back(dh, gated, dgated, hidden + first * 2 * F, rows, F);
        panels(h, gated, rows, F);
        panels(dh_panels, dh, rows, 2 * F);
        product(da, rows, C, dh_panels, space, both);
        normed_panels(a, scales, x + at, rows, C, eps);
        norm_back(dx + at, da, x + at, scales, dy + at, rows, C);
      }
      add_products(dw_in, dhs, as, 2 * F, C, done, blocks, shared);
      add_products(dw_out, gs, hs, C, F, done, blocks, shared);
#pragma omp barrier
    }
  }
  free(space);
  return 0;
}

// --- Muon: the nearest (nearly) orthogonal matrix to each of N, of (R, C) ---
//
// A quintic takes X to q X, where q = a + b A + c A^2 and A = X X^T, as small as X's shorter side.
// Here only A goes from one quintic to the next, as q A q, beside the product of all q so far: that
// is what X is multiplied by in the end. All of them are polynomials of the first A, so they
// commute, and their products are symmetric: one half is computed, and mirrored.
//
// Symmetric matrices lie in panels of BLOCK columns, (S / BLOCK, S, BLOCK): what a tile reads is in
// the order of memory. S is the shorter side and zeros, to be a multiple of BLOCK.

// to = a b. Groups of BLOCK rows of a, as of columns of b, lie `next` apart; sums are over n.
INLINE void half(float *to, const float *a, const float *b, int64_t next, int64_t along, int64_t n,
                 int64_t S) {
  for (int64_t i = 0; i < S / BLOCK; i++)
    for (int64_t j = 0; j <= i; j++) {
      float *here = to + (j * S + i * BLOCK) * BLOCK, *there = to + (i * S + j * BLOCK) * BLOCK;
      for (int r = 0; r < BLOCK; r += ROWS)
        tile(here + r * BLOCK, BLOCK, a + i * next + r, 1, along, b + j * next, along, n);
      for (int r = 0; r < BLOCK && i != j; r++)
        for (int c = 0; c < BLOCK; c++) there[c * BLOCK + r] = here[r * BLOCK + c];
    }
}

static void multiply(float *to, const float *a, const float *b, int64_t S) {
  half(to, a, b, S * BLOCK, BLOCK, S, S);
}

// p = the product of the q of `count` quintics (a, b, c), for the first A; q, t: room to work in.
static void polynomial(float *p, float *A, const float *quintic, int64_t count, int64_t S, float *q,
                       float *t) {
  for (int64_t left = count; left > 0; left--, quintic += 3) {
    multiply(q, A, A, S);
    for (int64_t i = 0; i < S * S; i++) q[i] = quintic[2] * q[i] + quintic[1] * A[i];
    for (int64_t i = 0; i < S; i++) q[(i / BLOCK * S + i) * BLOCK + i % BLOCK] += quintic[0];
    if (left > 1) multiply(t, A, q, S), multiply(A, t, q, S);
    if (left < count) multiply(t, p, q, S);
    memcpy(p, left < count ? t : q, S * S * sizeof(float));
  }
}

int orthogonalise(const float *x, float *y, const float *quintics, int64_t count, float tiny,
                  int64_t N, int64_t R, int64_t C) {
  // x[i * across + j * along], i on the shorter side
  int64_t across = R < C ? C : 1, along = R < C ? 1 : C, shorter = R < C ? R : C;
  int64_t longer = R < C ? C : R, S = whole(shorter, BLOCK), L = whole(longer, ROWS);
  int64_t down = S + BLOCK;  // a power of 2 would share few places of the cache
  int failed = 0;
#pragma omp parallel reduction(| : failed)
  {
    float *space = calloc(4 * S * S + L * down, sizeof(float));
    float *A = space, *q = A + S * S, *t = q + S * S, *p = t + S * S, *xt = p + S * S;
    failed = space == NULL;
#pragma omp for schedule(static)
    for (int64_t matrix = 0; matrix < N; matrix++) {
      if (failed) continue;
      const float *from = x + matrix * R * C;
      float *to = y + matrix * R * C, by = 1.0f / (sqrtf(dot(from, from, R * C)) + tiny);
      for (int64_t j = 0; j < longer; j++)
        for (int64_t i = 0; i < shorter; i++) xt[j * down + i] = by * from[i * across + j * along];
      half(A, xt, xt, BLOCK, down, longer, S);
      polynomial(p, A, quintics, count, S, q, t);
      for (int64_t i = 0; i < S; i += BLOCK)
        for (int64_t j = 0; j < L; j += ROWS) {
          float out[ROWS][BLOCK];
          tile(out[0], BLOCK, xt + j * down, down, 1, p + i * S, BLOCK, S);
          for (int64_t r = 0; r < ROWS && j + r < longer; r++)
            for (int64_t c = 0; c < BLOCK && i + c < shorter; c++)
              to[(i + c) * across + (j + r) * along] = out[r][c];
        }
    }
    free(space);
  }
  return failed;
}
