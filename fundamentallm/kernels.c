// The parts of a training step that torch does slowly on a CPU, in float32, forward and backward.
//
// attention, with rotary positions: at the small heads of small models (16 wide by default) torch's
// fused kernel takes a third of a step here: it is made of matrix products, which are too small to
// pay, and it works on pairs of tokens that causality then hides. Here each head of each sequence
// is one task that stays in the cache, keys lie transposed so that a vector holds neighbouring
// keys, and positions are rotated on the way in and back on the way out. The softmax is taken as in
// FlashAttention (Dao et al., 2022): of each row only the logarithm of its sum is kept, and the
// backward pass computes the row again from it.
//
// norm (RMSNorm) and swiglu: one pass over memory each way, where torch makes about ten.
//
// Every sum is made by one thread in a fixed order, so results do not depend on how many there are.
// Needs GCC's vector extensions (GCC or Clang). Built on demand by kernels.py; never required.

#include <math.h>
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
#define MASKED -1e30f

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float half_vec __attribute__((vector_size(32), aligned(4)));  // 8 along a head

// Holds a value in a register: GCC would rather read it again for each use.
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+x"(x))
#else
#define KEEP(x) (void)(x)
#endif

#define INLINE static inline __attribute__((always_inline))

INLINE vec splat(float x) { return x - (vec){}; }

INLINE vec larger(vec a, vec b) {
  ivec which = a > b;
  return (vec)((which & (ivec)a) | (~which & (ivec)b));
}

INLINE vec smaller(vec a, vec b) { return -larger(-a, -b); }

// exp(x) for x <= 0, to about 2 units in the last place: 2^n * p(r), as in Cephes.
INLINE vec vexp(vec x) {
  x = larger(x, splat(-87.0f));
  vec t = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to a whole number
  ivec n = (ivec)t - 0x4B400000;
  t -= 12582912.0f;
  vec r = x - t * 0.693359375f + t * 2.12194440e-4f;
  vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return (vec)((ivec)p + (n << 23));
}

INLINE float vsum(vec x) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += x[i];
  return total;
}

// One head of one sequence, and the buffers that its task works in.
typedef struct {
  int64_t T, padded, stride;  // tokens; the same up to whole vectors; floats between tokens of qkv
  float *q, *k, *v;           // (T, D), rotated
  float *kt, *vt;             // (D, padded): transposed, zero beyond T
  float *dkt, *dvt, *dq;      // gradients: (D, padded), (D, padded), (T, D)
  float *p, *ds;              // (ROWS, padded)
} head;

INLINE void rotate(float *to, const float *from, const float *cos, const float *sin, int D) {
  for (int i = 0; i < D / 2; i++) {
    float a = from[i], b = from[i + D / 2];
    to[i] = a * cos[i] - b * sin[i];
    to[i + D / 2] = a * sin[i] + b * cos[i];
  }
}

INLINE void rotate_back(float *to, const float *from, const float *cos, const float *sin, int D) {
  for (int i = 0; i < D / 2; i++) {
    float a = from[i], b = from[i + D / 2];
    to[i] = a * cos[i] + b * sin[i];
    to[i + D / 2] = b * cos[i] - a * sin[i];
  }
}

INLINE void read_head(head *h, const float *qkv, const float *cos, const float *sin, int64_t H,
                      int D) {
  float scale = 1.0f / sqrtf((float)D);
  for (int64_t t = 0; t < h->T; t++) {
    const float *row = qkv + t * h->stride, *c = cos + t * D / 2, *s = sin + t * D / 2;
    rotate(h->q + t * D, row, c, s, D);
    rotate(h->k + t * D, row + H * D, c, s, D);
    memcpy(h->v + t * D, row + 2 * H * D, D * sizeof(float));
    for (int d = 0; d < D; d++) {
      h->q[t * D + d] *= scale;
      h->kt[d * h->padded + t] = h->k[t * D + d];
      h->vt[d * h->padded + t] = h->v[t * D + d];
    }
  }
  for (int d = 0; d < D; d++)
    for (int64_t t = h->T; t < h->padded; t++) h->kt[d * h->padded + t] = h->vt[d * h->padded + t] = 0;
}

// rows[r][j] = a[r] . bt[:, j] for `count` rows and all j < end.
INLINE void products(float *rows, const float *a, const float *bt, int64_t padded, int64_t end,
                     int count, int D) {
  for (int64_t j = 0; j < end; j += BLOCK) {
    vec low[ROWS] = {}, high[ROWS] = {};
    for (int d = 0; d < D; d++) {
      vec x = *(const vec *)(bt + d * padded + j), y = *(const vec *)(bt + d * padded + j + LANES);
      KEEP(x);
      KEEP(y);
      for (int r = 0; r < count; r++) low[r] += a[r * D + d] * x, high[r] += a[r * D + d] * y;
    }
    for (int r = 0; r < count; r++) {
      *(vec *)(rows + r * padded + j) = low[r];
      *(vec *)(rows + r * padded + j + LANES) = high[r];
    }
  }
}

// out[r] = sum over j < end of rows[r][j] * b[j].
INLINE void weighted(float *out, const float *rows, const float *b, int64_t padded, int64_t end,
                     int count, int D) {
  for (int d = 0; d < D; d += 8 * (1 + (D > 8))) {
    half_vec low[ROWS] = {}, high[ROWS] = {};
    for (int64_t j = 0; j < end; j++) {
      half_vec x = *(const half_vec *)(b + j * D + d);
      half_vec y = D > 8 ? *(const half_vec *)(b + j * D + d + 8) : x;
      KEEP(x);
      KEEP(y);
      for (int r = 0; r < count; r++) {
        low[r] += rows[r * padded + j] * x;
        if (D > 8) high[r] += rows[r * padded + j] * y;
      }
    }
    for (int r = 0; r < count; r++) {
      *(half_vec *)(out + r * D + d) = low[r];
      if (D > 8) *(half_vec *)(out + r * D + d + 8) = high[r];
    }
  }
}

// outt[:, j] += sum over rows of rows[r][j] * a[r].
INLINE void outer(float *outt, const float *rows, const float *a, int64_t padded, int64_t end,
                  int count, int D) {
  for (int64_t j = 0; j < end; j += BLOCK) {
    vec low[ROWS], high[ROWS];
    for (int r = 0; r < count; r++) {
      low[r] = *(const vec *)(rows + r * padded + j);
      high[r] = *(const vec *)(rows + r * padded + j + LANES);
      KEEP(low[r]);
      KEEP(high[r]);
    }
    for (int d = 0; d < D; d++) {
      vec *x = (vec *)(outt + d * padded + j), *y = (vec *)(outt + d * padded + j + LANES);
      vec sum = *x, more = *y;
      for (int r = 0; r < count; r++) sum += a[r * D + d] * low[r], more += a[r * D + d] * high[r];
      *x = sum, *y = more;
    }
  }
}

INLINE int64_t whole_blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

INLINE void forward_rows(head *h, float *y, float *lse, int64_t first, int count, int64_t H, int D) {
  int64_t end = whole_blocks(first + count), padded = h->padded;
  float out[ROWS * D];
  products(h->p, h->q + first * D, h->kt, padded, end, count, D);
  for (int r = 0; r < count; r++) {
    float *p = h->p + r * padded, highest = MASKED, total;
    for (int64_t j = first + r + 1; j < end; j++) p[j] = MASKED;
    vec most = splat(MASKED), sum = {}, odd = {};  // odd: 0, or NaN if a score is no number
    for (int64_t j = 0; j < end; j += LANES) {
      vec s = *(vec *)(p + j);
      odd += s - s;
      most = larger(s, most);
    }
    for (int i = 0; i < LANES; i++) highest = most[i] > highest ? most[i] : highest;
    for (int64_t j = 0; j < end; j += LANES) {
      vec e = vexp(*(vec *)(p + j) - highest);
      *(vec *)(p + j) = e;
      sum += e;
    }
    for (int64_t j = first + r + 1; j < end; j++) p[j] = 0;
    total = vsum(sum) + vsum(odd);  // a run that diverges must show it
    lse[first + r] = highest + logf(total);
    h->ds[r] = 1.0f / total;
  }
  weighted(out, h->p, h->v, padded, first + count, count, D);
  for (int r = 0; r < count; r++)
    for (int d = 0; d < D; d++) y[(first + r) * H * D + d] = out[r * D + d] * h->ds[r];
}

INLINE void backward_rows(head *h, const float *dy, const float *y, const float *lse, int64_t first,
                          int count, int64_t H, int D) {
  int64_t end = whole_blocks(first + count), padded = h->padded;
  float grad[ROWS * D], delta[ROWS];
  for (int r = 0; r < count; r++) {
    delta[r] = 0;
    for (int d = 0; d < D; d++) {
      grad[r * D + d] = dy[(first + r) * H * D + d];
      delta[r] += grad[r * D + d] * y[(first + r) * H * D + d];
    }
  }
  products(h->p, h->q + first * D, h->kt, padded, end, count, D);
  products(h->ds, grad, h->vt, padded, end, count, D);
  for (int r = 0; r < count; r++) {
    float *p = h->p + r * padded, *ds = h->ds + r * padded;
    for (int64_t j = first + r + 1; j < end; j++) p[j] = MASKED;
    for (int64_t j = 0; j < end; j += LANES) {
      vec s = *(vec *)(p + j) - lse[first + r];
      vec e = vexp(smaller(s, splat(0)));
      *(vec *)(p + j) = e;
      *(vec *)(ds + j) = e * (*(vec *)(ds + j) - delta[r]);
    }
    for (int64_t j = first + r + 1; j < end; j++) p[j] = ds[j] = 0;
  }
  outer(h->dvt, h->p, grad, padded, end, count, D);
  outer(h->dkt, h->ds, h->q + first * D, padded, end, count, D);
  weighted(h->dq + first * D, h->ds, h->k, padded, first + count, count, D);
}

INLINE void write_head(const head *h, float *dqkv, const float *cos, const float *sin, int64_t H,
                       int D) {
  float scale = 1.0f / sqrtf((float)D), row[D];
  for (int64_t t = 0; t < h->T; t++) {
    float *out = dqkv + t * h->stride;
    const float *c = cos + t * D / 2, *s = sin + t * D / 2;
    for (int d = 0; d < D; d++) row[d] = h->dq[t * D + d] * scale;
    rotate_back(out, row, c, s, D);
    for (int d = 0; d < D; d++) row[d] = h->dkt[d * h->padded + t];
    rotate_back(out + H * D, row, c, s, D);
    for (int d = 0; d < D; d++) out[2 * H * D + d] = h->dvt[d * h->padded + t];
  }
}

INLINE int attend(int backward, const float *qkv, const float *cos, const float *sin, float *y,
                  float *lse, const float *dy, float *dqkv, int64_t B, int64_t T, int64_t H, int D) {
  int64_t padded = whole_blocks(T), size = padded * D;
  int failed = 0;
#pragma omp parallel reduction(| : failed)
  {
    float *space = malloc((8 * size + 2 * ROWS * padded) * sizeof(float));
    failed = space == NULL;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < B * H; task++) {
      if (failed) continue;
      int64_t b = task / H, n = task % H, place = (b * T * H + n) * D;
      head h = {T, padded, 3 * H * D, space, space + size, space + 2 * size, space + 3 * size,
                space + 4 * size, space + 5 * size, space + 6 * size, space + 7 * size,
                space + 8 * size, space + 8 * size + ROWS * padded};
      read_head(&h, qkv + b * T * h.stride + n * D, cos, sin, H, D);
      if (backward) memset(h.dkt, 0, 2 * size * sizeof(float));
      for (int64_t first = 0; first < T; first += ROWS) {
        int whole = T - first >= ROWS, rest = (int)(T - first);
        if (backward) {
          if (whole) backward_rows(&h, dy + place, y + place, lse + task * T, first, ROWS, H, D);
          else backward_rows(&h, dy + place, y + place, lse + task * T, first, rest, H, D);
        } else {
          if (whole) forward_rows(&h, y + place, lse + task * T, first, ROWS, H, D);
          else forward_rows(&h, y + place, lse + task * T, first, rest, H, D);
        }
      }
      if (backward) write_head(&h, dqkv + b * T * h.stride + n * D, cos, sin, H, D);
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

int norm_forward(const float *x, float *y, float *scale, float eps, int64_t N, int64_t C) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < N; row++) {
    const float *from = x + row * C;
    float by = scale[row] = 1.0f / sqrtf(dot(from, from, C) / C + eps);
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

// --- SwiGLU: y = silu(gate) * up, for rows [gate, up] of (N, 2 F) ---

// 1 / (1 + exp(-x)), by the exponential of a number that is not positive.
INLINE vec sigmoid(vec x) {
  vec e = vexp(-larger(x, -x)), small = e / (1.0f + e);
  ivec positive = x > splat(0);
  return (vec)((positive & (ivec)(1.0f - small)) | (~positive & (ivec)small));
}

INLINE void swiglu_vec(const float *gate, const float *up, float *y) {
  vec g = *(const vec *)gate;
  *(vec *)y = g * sigmoid(g) * *(const vec *)up;
}

INLINE void swiglu_vec_back(const float *gate, const float *up, const float *dy, float *dgate,
                            float *dup) {
  vec g = *(const vec *)gate, grad = *(const vec *)dy, open = sigmoid(g);
  *(vec *)dgate = grad * *(const vec *)up * open * (1.0f + g * (1.0f - open));
  *(vec *)dup = grad * g * open;
}

int swiglu_forward(const float *x, float *y, int64_t N, int64_t F) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < N; row++) {
    const float *gate = x + row * 2 * F, *up = gate + F;
    float *out = y + row * F, rest[3][LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= F; i += LANES) swiglu_vec(gate + i, up + i, out + i);
    if (i < F) {
      size_t size = (F - i) * sizeof(float);
      memcpy(rest[0], gate + i, size), memcpy(rest[1], up + i, size);
      swiglu_vec(rest[0], rest[1], rest[2]);
      memcpy(out + i, rest[2], size);
    }
  }
  return 0;
}

int swiglu_backward(const float *x, const float *dy, float *dx, int64_t N, int64_t F) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < N; row++) {
    const float *gate = x + row * 2 * F, *up = gate + F, *grad = dy + row * F;
    float *dgate = dx + row * 2 * F, *dup = dgate + F, rest[5][LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= F; i += LANES)
      swiglu_vec_back(gate + i, up + i, grad + i, dgate + i, dup + i);
    if (i < F) {
      size_t size = (F - i) * sizeof(float);
      memcpy(rest[0], gate + i, size), memcpy(rest[1], up + i, size);
      memcpy(rest[2], grad + i, size);
      swiglu_vec_back(rest[0], rest[1], rest[2], rest[3], rest[4]);
      memcpy(dgate + i, rest[3], size), memcpy(dup + i, rest[4], size);
    }
  }
  return 0;
}
