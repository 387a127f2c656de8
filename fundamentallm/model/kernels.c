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
// orthogonalize, of Muon's steps: half the work of torch's products, which cannot be told that
// theirs are symmetric.
//
// Every sum is made in a fixed order, by one thread at a time, so results do not depend on how many
// threads there are.
// Needs GCC's vector extensions (GCC or Clang). Built on demand by native.py; never required.

#if defined(__AVX__)
#include <immintrin.h>
#endif
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

// --- Threads ---
//
// A job is cut into pieces. Whoever is free takes the next one, the caller too, who then waits for
// the pieces that others have begun and for nothing else. So a thread that sleeps, or that the
// system keeps from running because the machine is busy, holds nobody up. OpenMP's threads all have
// to arrive at the end of a loop, and its wait for them slowed a busy machine down to a tenth.
//
// Who has to wait looks for a while, for waking a thread takes long, then sleeps. Looking takes time
// from others where there are any: whoever was kept from it looks but briefly for some time.

INLINE int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

#define MOST_THREADS 256
// In nanoseconds, measured in docs/dev/performance.md:
#define WHILE 300000           // of looking: what torch does between two jobs takes less
#define BRIEFLY 20000          // of looking, on a busy machine
#define INTERRUPTED 100000     // between two looks, if somebody else had the core meanwhile
#define REMEMBERED 100000000   // how long a machine counts as busy
#define WORTH_A_THREAD 100000  // multiplications: fewer are done before another thread is awake
#define TO_MEMORY 8            // times as long as a multiplication: an element that is read and written

// Does one piece of a job. `thread` is below the job's number of threads, and nobody else's.
typedef void piece_work(const void *job, int64_t piece, int64_t thread);

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t woken;
  atomic_int asleep;
} sleeper;

static sleeper sleepers[MOST_THREADS];  // the caller's comes first
static pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;  // by a caller, and what follows is his
static int64_t started;                 // threads there are, with the caller
static piece_work *work;
static const void *job_at_hand;
static int64_t pieces;
static _Atomic uint64_t untaken;        // threads that may take pieces, 32 bits, and pieces left
static _Atomic int64_t unfinished;
static _Atomic int64_t busy_until;      // nanoseconds of the clock

INLINE int may_take(uint64_t seen, int64_t thread) {
  return (uint32_t)seen > 0 && thread < (int64_t)(seen >> 32);
}

static int has_work(int64_t thread) { return may_take(atomic_load(&untaken), thread); }

static int is_finished(int64_t thread) { return atomic_load(&unfinished) == 0; }

static void wake(sleeper *s) {
  if (!atomic_load(&s->asleep)) return;
  pthread_mutex_lock(&s->lock);
  pthread_cond_signal(&s->woken);
  pthread_mutex_unlock(&s->lock);
}

INLINE int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void wait_until(int (*holds)(int64_t), int64_t thread) {
  sleeper *s = &sleepers[thread];
  int64_t before = nanoseconds(), now = before, begun = before;
  int64_t enough = begun < atomic_load(&busy_until) ? BRIEFLY : WHILE;
  for (; now - begun < enough; before = now, now = nanoseconds()) {
    if (now - before > INTERRUPTED) atomic_store(&busy_until, now + REMEMBERED), enough = BRIEFLY;
    if (holds(thread)) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
  pthread_mutex_lock(&s->lock);
  atomic_store(&s->asleep, 1);  // first, or `wake` could come between the look and the sleep
  while (!holds(thread)) pthread_cond_wait(&s->woken, &s->lock);
  atomic_store(&s->asleep, 0);
  pthread_mutex_unlock(&s->lock);
}

// Whether there was a piece to do. Once it is taken the job stays as it is until it is finished.
static int do_a_piece(int64_t thread) {
  uint64_t seen = atomic_load(&untaken);
  do {
    if (!may_take(seen, thread)) return 0;
  } while (!atomic_compare_exchange_weak(&untaken, &seen, seen - 1));
  work(job_at_hand, pieces - (uint32_t)seen, thread);
  if (atomic_fetch_sub(&unfinished, 1) == 1) wake(&sleepers[0]);
  return 1;
}

static void *serve(void *thread) {
  for (;;)
    if (!do_a_piece((intptr_t)thread)) wait_until(has_work, (intptr_t)thread);
  return NULL;
}

// At the beginning; and in a process that was forked, which has none of its parent's threads.
static void make_ready(void) {
  for (int i = 0; i < MOST_THREADS; i++) {
    pthread_mutex_init(&sleepers[i].lock, NULL);
    pthread_cond_init(&sleepers[i].woken, NULL);
    sleepers[i].asleep = 0;
  }
  untaken = 0;
  started = 1;
}

static void make_ready_again(void) {
  if (started) make_ready();
  pthread_mutex_init(&in_use, NULL);
}

// Have as many threads, or as many as can be had. Signals are for the program's own threads.
static void start(int64_t threads) {
  if (started == 0) make_ready(), pthread_atfork(NULL, NULL, make_ready_again);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (pthread_t made; started < threads; started++) {
    if (pthread_create(&made, NULL, serve, (void *)(intptr_t)started)) break;
    pthread_detach(made);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// The whole of a job, by at most `threads` threads, and no more than its pieces of about `each`
// multiplications are worth; by the caller alone where the threads serve another.
static void do_all(piece_work *what, const void *job, int64_t count, int64_t each,
                   int64_t threads) {
  threads = at_most(at_most(threads, MOST_THREADS), at_most(count, count * each / WORTH_A_THREAD));
  if (threads < 2 || pthread_mutex_trylock(&in_use)) {
    for (int64_t i = 0; i < count; i++) what(job, i, 0);
    return;
  }
  if (started < threads) start(threads);
  work = what, job_at_hand = job, pieces = count;
  atomic_store(&unfinished, count);
  atomic_store(&untaken, (uint64_t)threads << 32 | (uint64_t)count);
  for (int64_t i = 1; i < threads && i < started; i++) wake(&sleepers[i]);
  while (do_a_piece(0)) continue;
  wait_until(is_finished, 0);
  pthread_mutex_unlock(&in_use);
}

INLINE int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// --- Attention ---

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

typedef struct {
  const float *qkv, *cos, *sin, *dy;
  float *y, *lse, *dqkv, *space;
  char *is_clean;  // for each thread, whether its space is made of zeros, and of what it left
  int64_t T, H, padded;
} attention_job;

INLINE int64_t attention_space(int64_t padded, int64_t D) {
  return 8 * padded * D + PANEL * D + 2 * PANEL * padded;
}

INLINE void attend_piece(const attention_job *a, int64_t task, int64_t thread, int backward, int D) {
  int64_t T = a->T, H = a->H, padded = a->padded, size = padded * D;
  int64_t b = task / H, n = task % H, place = (b * T * H + n) * D;
  float *space = a->space + thread * attention_space(padded, D);
  if (!a->is_clean[thread]) memset(space, 0, attention_space(padded, D) * sizeof(float));
  a->is_clean[thread] = 1;
  head h = {T, padded, 3 * H * D, space, space + size, space + 2 * size, space + 3 * size,
            space + 4 * size, space + 5 * size, space + 6 * size, space + 7 * size,
            space + 8 * size, space + 8 * size + PANEL * D,
            space + 8 * size + PANEL * D + PANEL * padded};
  read_head(&h, a->qkv + b * T * h.stride + n * D, a->cos, a->sin, H, backward, D);
  if (backward) {
    memset(h.dk, 0, 2 * size * sizeof(float));
    for (int64_t first = 0; first < T; first += PANEL)
      backward_panel(&h, a->dy + place, a->y + place, a->lse + task * T, first, H, D);
    write_head(&h, a->dqkv + b * T * h.stride + n * D, a->cos, a->sin, H, D);
  } else {
    for (int64_t first = 0; first < T; first += ROWS)
      forward_rows(&h, a->y + place, a->lse + task * T, first, H, D);
  }
}

#define FOR_WIDTH(D)                                                                  \
  static void attend_##D(const void *job, int64_t task, int64_t thread) {             \
    attend_piece(job, task, thread, 0, D);                                            \
  }                                                                                   \
  static void attend_back_##D(const void *job, int64_t task, int64_t thread) {        \
    attend_piece(job, task, thread, 1, D);                                            \
  }
FOR_WIDTH(8) FOR_WIDTH(16) FOR_WIDTH(32) FOR_WIDTH(64)

// 0, 1 if there was no memory, or 2 if heads of this width are not for this file.
static int attend(attention_job a, int backward, int64_t threads, int64_t B, int64_t D) {
  static piece_work *const forth[] = {attend_8, attend_16, attend_32, attend_64};
  static piece_work *const back[] = {attend_back_8, attend_back_16, attend_back_32, attend_back_64};
  int width = D == 8 ? 0 : D == 16 ? 1 : D == 32 ? 2 : 3;
  if (D != 8 << width) return 2;
  a.padded = whole(a.T + PANEL, BLOCK);
  if (a.padded % 256 == 0) a.padded += BLOCK;  // or what is transposed shares few places of the cache
  a.space = malloc(threads * attention_space(a.padded, D) * sizeof(float));
  a.is_clean = calloc(threads, 1);
  int failed = a.space == NULL || a.is_clean == NULL;
  if (!failed) do_all((backward ? back : forth)[width], &a, B * a.H, a.T * a.T * D, threads);
  free(a.space), free(a.is_clean);
  return failed;
}

int attention_forward(int64_t threads, const float *qkv, const float *cos, const float *sin,
                      float *y, float *lse, int64_t B, int64_t T, int64_t H, int64_t D) {
  attention_job a = {qkv, cos, sin, .y = y, .lse = lse, .T = T, .H = H};
  return attend(a, 0, threads, B, D);
}

int attention_backward(int64_t threads, const float *qkv, const float *cos, const float *sin,
                       float *y, float *lse, const float *dy, float *dqkv, int64_t B, int64_t T,
                       int64_t H, int64_t D) {
  attention_job a = {qkv, cos, sin, dy, y, lse, dqkv, .T = T, .H = H};
  return attend(a, 1, threads, B, D);
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

#define ROWS_AT_ONCE 64  // of a norm, to a piece

typedef struct {
  const float *x, *y, *dy;
  float *to, *scale;
  float eps;
  int64_t N, C;
} norm_job;

static void norm_rows(const void *about, int64_t piece, int64_t thread) {
  const norm_job *a = about;
  int64_t C = a->C, first = piece * ROWS_AT_ONCE, end = at_most(first + ROWS_AT_ONCE, a->N);
  for (int64_t row = first; row < end; row++) {
    const float *from = a->x + row * C;
    float *to = a->to + row * C, by = a->scale[row] = norm_scale(from, C, a->eps);
    for (int64_t i = 0; i < C; i++) to[i] = from[i] * by;
  }
}

static void norm_rows_back(const void *about, int64_t piece, int64_t thread) {
  const norm_job *a = about;
  int64_t C = a->C, first = piece * ROWS_AT_ONCE, end = at_most(first + ROWS_AT_ONCE, a->N);
  for (int64_t row = first; row < end; row++) {
    const float *out = a->y + row * C, *grad = a->dy + row * C;
    float *to = a->to + row * C, mean = dot(out, grad, C) / C, by = a->scale[row];
    for (int64_t i = 0; i < C; i++) to[i] = by * (grad[i] - out[i] * mean);
  }
}

int norm_forward(int64_t threads, const float *x, float *y, float *scale, float eps, int64_t N,
                 int64_t C) {
  norm_job a = {x, .to = y, .scale = scale, .eps = eps, .N = N, .C = C};
  do_all(norm_rows, &a, parts_of(N, ROWS_AT_ONCE), TO_MEMORY * ROWS_AT_ONCE * C, threads);
  return 0;
}

int norm_backward(int64_t threads, const float *y, float *scale, const float *dy, float *dx,
                  int64_t N, int64_t C) {
  norm_job a = {.y = y, .dy = dy, .to = dx, .scale = scale, .N = N, .C = C};
  do_all(norm_rows_back, &a, parts_of(N, ROWS_AT_ONCE), TO_MEMORY * ROWS_AT_ONCE * C, threads);
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

// What dropout needs to know: its seed, how many of 2^16 words drop, the factor of the rest.
typedef struct {
  const int64_t *seed;
  int64_t dropped;
  float scale;
} drops;

#define SHARE (1024 * BLOCK)  // elements to a piece

typedef struct {
  const float *x;
  float *y;
  drops drop;
  int64_t N;
} dropout_job;

static void dropout_share(const void *about, int64_t piece, int64_t thread) {
  const dropout_job *a = about;
  int64_t first = piece * SHARE;
  drop_range(NULL, a->x + first, a->y + first, *a->drop.seed, a->drop.dropped, a->drop.scale, first,
             at_most(a->N - first, SHARE));
}

int dropout(int64_t threads, const float *x, float *y, const int64_t *seed, int64_t dropped,
            float scale, int64_t N) {
  dropout_job a = {x, y, {seed, dropped, scale}, N};
  do_all(dropout_share, &a, parts_of(N, SHARE), TO_MEMORY * SHARE, threads);
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

INLINE float *room_for(int64_t floats) {
  return aligned_alloc(64, whole(floats * sizeof(float), 64));
}

typedef struct {
  float *to;
  const float *from;
  int64_t rows, columns, down, along;
} pack_job;

#define PANELS_AT_ONCE 4  // to a piece

static void pack_panels(const void *about, int64_t piece, int64_t thread) {
  const pack_job *a = about;
  int64_t padded = whole(a->rows, LANES), first = piece * PANELS_AT_ONCE * LANES;
  int64_t end = at_most(first + PANELS_AT_ONCE * LANES, a->columns);
  for (int64_t j = first; j < end; j += LANES)
    for (int64_t i = 0; i < padded; i++)
      for (int64_t l = 0; l < LANES; l++)
        a->to[j * padded + i * LANES + l] =
            i < a->rows && j + l < a->columns ? a->from[i * a->down + (j + l) * a->along] : 0;
}

// Panels of a matrix of which rows lie `down` apart and columns `along`.
static void pack(float *to, const float *from, int64_t rows, int64_t columns, int64_t down,
                 int64_t along, int64_t threads) {
  pack_job a = {to, from, rows, columns, down, along};
  do_all(pack_panels, &a, parts_of(columns, PANELS_AT_ONCE * LANES),
         TO_MEMORY * PANELS_AT_ONCE * LANES * rows, threads);
}

// y = onto + what dropout leaves of x, n elements from the `first` on.
static void add_dropped(const float *onto, const float *x, float *y, drops by, int64_t first,
                        int64_t n) {
  if (by.dropped) drop_range(onto, x, y, *by.seed, by.dropped, by.scale, first, n);
  for (int64_t i = 0; i < n && !by.dropped; i++) y[i] = onto[i] + x[i];
}

// Panels of a gradient of O columns where it passes dropout; `kept`: room for a block.
static void dropped_panels(float *to, const float *dy, float *kept, drops by, int64_t first,
                           int64_t rows, int64_t O) {
  if (by.dropped) drop_range(NULL, dy, kept, *by.seed, by.dropped, by.scale, first * O, rows * O);
  panels(to, by.dropped ? kept : dy, rows, O);
}

// Blocks of rows on the way back: those from `start` to `end` are made now, those from `done` to
// `start` were made before and are added up now. Twice `shared` have a place.
typedef struct {
  int64_t blocks, shared, done, start, end;
} stage;

INLINE stage first_stage(int64_t blocks, int64_t threads) {
  int64_t shared = at_most(SHARED * threads, blocks);
  return (stage){blocks, shared, 0, 0, shared};
}

INLINE int is_left(stage s) { return s.done < s.blocks; }

INLINE stage next_stage(stage s) {
  return (stage){s.blocks, s.shared, s.start, s.end, at_most(s.end + s.shared, s.blocks)};
}

// Pieces in which (O, K) is added up; none where nothing has been made.
INLINE int64_t sums(stage s, int64_t O, int64_t K) {
  return s.done < s.start ? parts_of(O, DOWN) * parts_of(K, ACROSS) : 0;
}

// A piece of to (+)= a' b, (O, K), for the blocks that are made.
static void add_products(float *to, const float *a, const float *b, int64_t O, int64_t K, stage s,
                         int64_t piece) {
  int64_t row = piece / parts_of(K, ACROSS) * DOWN, column = piece % parts_of(K, ACROSS) * ACROSS;
  int64_t a_block = TOKENS * whole(O, LANES), b_block = TOKENS * whole(K, LANES);
  for (int64_t i = s.done; i < s.start; i++) {
    int64_t place = i % (2 * s.shared);
    add_product(to, row, column, O, K, a + place * a_block, b + place * b_block, i > 0);
  }
}

typedef struct {
  const float *x, *onto, *dy;
  float *y, *dx, *dweight;
  float *packed, *own;  // the weight, in panels; room of each thread
  float *as, *gs;       // blocks of what was multiplied, and of its gradient
  drops drop;
  int64_t normed;
  float eps;
  int64_t N, K, O, each;  // each: floats of a thread's room
  stage stage;
} project_job;

static void project_block(const void *about, int64_t piece, int64_t thread) {
  const project_job *p = about;
  int64_t K = p->K, O = p->O, deep = whole(K, LANES), first = piece * TOKENS;
  int64_t rows = at_most(p->N - first, TOKENS), at = first * O;
  float *a = p->own + thread * p->each, *out = a + TOKENS * deep;
  if (p->normed) normed_panels(a, out + TOKENS * O, p->x + first * K, rows, K, p->eps);
  else panels(a, p->x + first * K, rows, K);
  product(p->onto == NULL ? p->y + at : out, rows, O, a, p->packed, deep);
  if (p->onto != NULL) add_dropped(p->onto + at, out, p->y + at, p->drop, at, rows * O);
}

// Nothing is dropped where onto is NULL.
int project_forward(int64_t threads, const float *x, const float *weight, const float *onto,
                    float *y, const int64_t *seed, int64_t dropped, float scale, int64_t normed,
                    float eps, int64_t N, int64_t K, int64_t O) {
  int64_t deep = whole(K, LANES), packed = deep * whole(O, LANES), each = TOKENS * (deep + O + 1);
  float *space = room_for(packed + threads * each);
  if (space == NULL) return 1;
  project_job p = {x, onto, .y = y, .packed = space, .own = space + packed,
                   .drop = {seed, dropped, scale}, .normed = normed, .eps = eps,
                   .N = N, .K = K, .O = O, .each = each};
  pack(space, weight, K, O, 1, K, threads);
  do_all(project_block, &p, parts_of(N, TOKENS), TOKENS * K * O, threads);
  free(space);
  return 0;
}

static void project_block_back(const project_job *p, int64_t i, int64_t thread) {
  int64_t K = p->K, O = p->O, deep = whole(K, LANES), tall = whole(O, LANES);
  int64_t place = i % (2 * p->stage.shared) * TOKENS;
  float *a = p->as + place * deep, *g = p->gs + place * tall, *da = p->own + thread * p->each;
  float *kept = da + TOKENS * K, *scales = kept + TOKENS * O;
  int64_t first = i * TOKENS, rows = at_most(p->N - first, TOKENS);
  const float *from = p->x + first * K;
  dropped_panels(g, p->dy + first * O, kept, p->drop, first, rows, O);
  product(p->normed ? da : p->dx + first * K, rows, K, g, p->packed, tall);
  if (p->normed) normed_panels(a, scales, from, rows, K, p->eps);
  else panels(a, from, rows, K);
  if (p->normed) norm_back(p->dx + first * K, da, from, scales, NULL, rows, K);
}

static void project_back(const void *about, int64_t piece, int64_t thread) {
  const project_job *p = about;
  int64_t made = p->stage.end - p->stage.start;
  if (piece < made) project_block_back(p, p->stage.start + piece, thread);
  else add_products(p->dweight, p->gs, p->as, p->O, p->K, p->stage, piece - made);
}

int project_backward(int64_t threads, const float *x, const float *weight, const float *dy,
                     float *dx, float *dweight, const int64_t *seed, int64_t dropped, float scale,
                     int64_t normed, float eps, int64_t N, int64_t K, int64_t O) {
  int64_t deep = whole(K, LANES), tall = whole(O, LANES), each = TOKENS * (K + O + 1);
  stage s = first_stage(parts_of(N, TOKENS), threads);
  int64_t packed = deep * tall, rows_shared = 2 * s.shared * TOKENS;
  float *space = room_for(packed + rows_shared * (deep + tall) + threads * each);
  if (space == NULL) return 1;
  float *as = space + packed, *gs = as + rows_shared * deep;
  project_job p = {x, .dy = dy, .dx = dx, .dweight = dweight, .packed = space,
                   .own = gs + rows_shared * tall, .as = as, .gs = gs,
                   .drop = {seed, dropped, scale}, .normed = normed, .eps = eps,
                   .N = N, .K = K, .O = O, .each = each};
  pack(space, weight, O, K, K, 1, threads);
  for (; is_left(s); s = next_stage(s)) {
    p.stage = s;
    do_all(project_back, &p, s.end - s.start + sums(s, O, K), TOKENS * K * O, threads);
  }
  free(space);
  return 0;
}

// F: the width of gate and of up. hidden, (N, 2 F), holds both, for the way back.
typedef struct {
  const float *x, *dy, *way_back;
  float *y, *dx, *dw_in, *dw_out, *hidden;
  float *packed_in, *packed_out, *own;  // the weights, in panels; room of each thread
  float *as, *gs, *dhs, *hs;            // blocks of what was multiplied, and of its gradients
  drops drop;
  float eps;
  int64_t N, C, F, each;  // each: floats of a thread's room
  stage stage;
} mlp_job;

static void mlp_block(const void *about, int64_t piece, int64_t thread) {
  const mlp_job *m = about;
  int64_t C = m->C, F = m->F, deep = whole(C, LANES), wide = whole(F, LANES);
  int64_t first = piece * TOKENS, rows = at_most(m->N - first, TOKENS), at = first * C;
  float *a = m->own + thread * m->each, *h = a + TOKENS * deep;
  float *out = h + TOKENS * wide, *scales = out + TOKENS * C, *hidden = m->hidden + first * 2 * F;
  normed_panels(a, scales, m->x + at, rows, C, m->eps);
  product(hidden, rows, 2 * F, a, m->packed_in, deep);
  gated_panels(h, hidden, rows, F);
  product(out, rows, C, h, m->packed_out, wide);
  add_dropped(m->x + at, out, m->y + at, m->drop, at, rows * C);
}

int mlp_forward(int64_t threads, const float *x, const float *w_in, const float *w_out, float *y,
                float *hidden, const int64_t *seed, int64_t dropped, float scale, float eps,
                int64_t N, int64_t C, int64_t F) {
  int64_t deep = whole(C, LANES), wide = whole(F, LANES), in = deep * whole(2 * F, LANES);
  int64_t packed = in + wide * deep, each = TOKENS * (deep + wide + C + 1);
  float *space = room_for(packed + threads * each);
  if (space == NULL) return 1;
  mlp_job m = {x, .y = y, .hidden = hidden, .packed_in = space, .packed_out = space + in,
               .own = space + packed, .drop = {seed, dropped, scale}, .eps = eps,
               .N = N, .C = C, .F = F, .each = each};
  pack(space, w_in, C, 2 * F, 1, C, threads);
  pack(space + in, w_out, F, C, 1, F, threads);
  do_all(mlp_block, &m, parts_of(N, TOKENS), TOKENS * C * 3 * F, threads);
  free(space);
  return 0;
}

static void mlp_block_back(const mlp_job *m, int64_t i, int64_t thread) {
  int64_t C = m->C, F = m->F, deep = whole(C, LANES), wide = whole(F, LANES);
  int64_t both = whole(2 * F, LANES), place = i % (2 * m->stage.shared) * TOKENS;
  float *a = m->as + place * deep, *g = m->gs + place * deep;
  float *dh_panels = m->dhs + place * both, *h = m->hs + place * wide;
  float *da = m->own + thread * m->each, *kept = da + TOKENS * C, *dgated = kept + TOKENS * C;
  float *gated = dgated + TOKENS * F, *dh = gated + TOKENS * F, *scales = dh + TOKENS * 2 * F;
  int64_t first = i * TOKENS, rows = at_most(m->N - first, TOKENS), at = first * C;
  const float *x = m->x + at, *dy = m->dy + at;
  dropped_panels(g, dy, kept, m->drop, first, rows, C);
  product(dgated, rows, F, g, m->packed_out, deep);
  swiglu_back(dh, gated, dgated, m->way_back + first * 2 * F, rows, F);
  panels(h, gated, rows, F);
  panels(dh_panels, dh, rows, 2 * F);
  product(da, rows, C, dh_panels, m->packed_in, both);
  normed_panels(a, scales, x, rows, C, m->eps);
  norm_back(m->dx + at, da, x, scales, dy, rows, C);
}

static void mlp_back(const void *about, int64_t piece, int64_t thread) {
  const mlp_job *m = about;
  int64_t made = m->stage.end - m->stage.start, in = sums(m->stage, 2 * m->F, m->C);
  if (piece < made)
    mlp_block_back(m, m->stage.start + piece, thread);
  else if (piece < made + in)
    add_products(m->dw_in, m->dhs, m->as, 2 * m->F, m->C, m->stage, piece - made);
  else
    add_products(m->dw_out, m->gs, m->hs, m->C, m->F, m->stage, piece - made - in);
}

int mlp_backward(int64_t threads, const float *x, const float *w_in, const float *w_out,
                 const float *hidden, const float *dy, float *dx, float *dw_in, float *dw_out,
                 const int64_t *seed, int64_t dropped, float scale, float eps, int64_t N, int64_t C,
                 int64_t F) {
  int64_t deep = whole(C, LANES), wide = whole(F, LANES), both = whole(2 * F, LANES);
  int64_t in = deep * both, packed = in + wide * deep, each = TOKENS * (2 * C + 4 * F + 1);
  stage s = first_stage(parts_of(N, TOKENS), threads);
  int64_t rows_shared = 2 * s.shared * TOKENS;
  float *space =
      room_for(packed + rows_shared * (2 * deep + both + wide) + threads * each);
  if (space == NULL) return 1;
  float *as = space + packed, *gs = as + rows_shared * deep, *dhs = gs + rows_shared * deep;
  float *hs = dhs + rows_shared * both;
  mlp_job m = {x, dy, hidden, .dx = dx, .dw_in = dw_in, .dw_out = dw_out, .packed_in = space,
               .packed_out = space + in, .own = hs + rows_shared * wide, .as = as, .gs = gs,
               .dhs = dhs, .hs = hs, .drop = {seed, dropped, scale}, .eps = eps,
               .N = N, .C = C, .F = F, .each = each};
  pack(space, w_in, 2 * F, C, C, 1, threads);
  pack(space + in, w_out, C, F, F, 1, threads);
  for (; is_left(s); s = next_stage(s)) {
    m.stage = s;
    do_all(mlp_back, &m, s.end - s.start + sums(s, 2 * F, C) + sums(s, C, F), TOKENS * C * 3 * F,
           threads);
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

typedef struct {
  const float *x, *quintics;
  float *y, *space;
  float tiny;
  int64_t count, R, C, each;  // each: floats of a thread's room
} orthogonal_job;

static void orthogonalize_one(const void *about, int64_t matrix, int64_t thread) {
  const orthogonal_job *o = about;
  // x[i * across + j * along], i on the shorter side
  int64_t R = o->R, C = o->C, across = R < C ? C : 1, along = R < C ? 1 : C;
  int64_t shorter = R < C ? R : C, longer = R < C ? C : R;
  int64_t S = whole(shorter, BLOCK), L = whole(longer, ROWS);
  int64_t down = S + BLOCK;  // a power of 2 would share few places of the cache
  float *A = o->space + thread * o->each, *q = A + S * S, *t = q + S * S, *p = t + S * S;
  float *xt = p + S * S;
  const float *from = o->x + matrix * R * C;
  float *to = o->y + matrix * R * C, by = 1.0f / (sqrtf(dot(from, from, R * C)) + o->tiny);
  for (int64_t j = 0; j < longer; j++)
    for (int64_t i = 0; i < shorter; i++) xt[j * down + i] = by * from[i * across + j * along];
  half(A, xt, xt, BLOCK, down, longer, S);
  polynomial(p, A, o->quintics, o->count, S, q, t);
  for (int64_t i = 0; i < S; i += BLOCK)
    for (int64_t j = 0; j < L; j += ROWS) {
      float out[ROWS][BLOCK];
      tile(out[0], BLOCK, xt + j * down, down, 1, p + i * S, BLOCK, S);
      for (int64_t r = 0; r < ROWS && j + r < longer; r++)
        for (int64_t c = 0; c < BLOCK && i + c < shorter; c++)
          to[(i + c) * across + (j + r) * along] = out[r][c];
    }
}

int orthogonalize(int64_t threads, const float *x, float *y, const float *quintics, int64_t count,
                  float tiny, int64_t N, int64_t R, int64_t C) {
  int64_t S = whole(R < C ? R : C, BLOCK), L = whole(R < C ? C : R, ROWS);
  int64_t each = 4 * S * S + L * (S + BLOCK);
  threads = at_most(threads, N);
  float *space = calloc(threads * each, sizeof(float));
  if (space == NULL) return 1;
  orthogonal_job o = {x, quintics, y, space, tiny, count, R, C, each};
  do_all(orthogonalize_one, &o, N, R * C * S, threads);
  free(space);
  return 0;
}
