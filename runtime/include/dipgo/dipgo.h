/* libdipgo: runs the bundles that `dipgo-compile build` writes. The C interface.
 *
 * A plan is a loaded bundle, or one shape of it: its engines and weights. A session is an arena of its own over a
 * plan's engines; it makes one image at a time. Two rules hold for everything here:
 *
 * Ownership. What a function reads (paths, arrays, parameter structures) stays the caller's and is copied before
 * the function returns. What it hands out by pointer (names, shapes, timesteps) belongs to the plan and lives until
 * dipgo_plan_free. Results are written into memory of the caller's.
 *
 * Threads. A plan may be used from any number of threads at once. A session serves one thread at a time: while it
 * is at work, every other call on it answers DIPGO_BUSY at once, except dipgo_session_abort, which is for that.
 * Handles are freed when no other thread uses them any more; a session may outlive its plan's handle.
 *
 * Every function that can fail returns a dipgo_status, and leaves a message in dipgo_last_error: what happened,
 * where, what was available, how to mend it. No exception leaves the library. A pointer that must be valid and is
 * NULL is DIPGO_ERROR_INPUT.
 */
#ifndef DIPGO_DIPGO_H
#define DIPGO_DIPGO_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DIPGO_EXPORT __attribute__((visibility("default")))
#else
#define DIPGO_EXPORT
#endif

/* Whatever number a caller passes is a value of the type, so that it can be refused. */
#ifdef __cplusplus
#define DIPGO_ENUM : int32_t
extern "C" {
#else
#define DIPGO_ENUM
#endif

/* Grows with every addition; what exists is not changed. A program that was compiled against version N runs with
 * every library of version N or later. */
#define DIPGO_API_VERSION 3

/* The first ones are the exit codes of the command line. */
typedef enum dipgo_status DIPGO_ENUM {
    DIPGO_OK = 0,
    DIPGO_ERROR_INTERNAL = 1, /* a bug in this library */
    DIPGO_ERROR_BUNDLE = 8,   /* a bundle that is missing, truncated, altered or of an unknown version */
    DIPGO_ERROR_BACKEND = 9,  /* ONNX Runtime lacks a provider, refuses an engine or fails */
    DIPGO_ERROR_INPUT = 10,   /* an argument of the wrong name, shape, type or size */
    DIPGO_BUSY = 20,          /* the session is at work in another thread, or further up in this one */
    DIPGO_ABORTED = 21,       /* the abort callback, or dipgo_session_abort, ended the image */
    DIPGO_ERROR_MEMORY = 22   /* not enough memory */
} dipgo_status;

typedef enum dipgo_dtype DIPGO_ENUM {
    DIPGO_FLOAT16 = 1,
    DIPGO_FLOAT32 = 2,
    DIPGO_FLOAT64 = 3,
    DIPGO_INT8 = 4,
    DIPGO_UINT8 = 5,
    DIPGO_INT32 = 6,
    DIPGO_INT64 = 7,
    DIPGO_BOOL = 8 /* a byte: 0 or 1 */
} dipgo_dtype;

typedef struct dipgo_plan dipgo_plan;
typedef struct dipgo_session dipgo_session;

/* An array, dense and in C order, or the description of one that is wanted (data is then NULL). */
typedef struct dipgo_tensor {
    const char *name;
    dipgo_dtype dtype;
    size_t rank;
    const int64_t *shape;
    const void *data;
} dipgo_tensor;

/* --- the library ------------------------------------------------------------------------------------------- */

/* DIPGO_API_VERSION of the library that is loaded. */
DIPGO_EXPORT uint32_t dipgo_api_version(void);

/* The version of the library, such as "0.1.0". Static. */
DIPGO_EXPORT const char *dipgo_version(void);

/* The version of the ONNX Runtime that is loaded. Static. */
DIPGO_EXPORT const char *dipgo_onnxruntime_version(void);

/* The message of the last call in this thread that failed, or "". Valid until this thread's next failing call. */
DIPGO_EXPORT const char *dipgo_last_error(void);

/* The name of a status, such as "DIPGO_BUSY". Static. */
DIPGO_EXPORT const char *dipgo_status_name(dipgo_status status);

/* The number of bytes of a tensor's data; 0 for a description that makes no sense. */
DIPGO_EXPORT size_t dipgo_tensor_bytes(const dipgo_tensor *tensor);

/* --- plans ------------------------------------------------------------------------------------------------- */

typedef enum dipgo_memory DIPGO_ENUM {
    DIPGO_MEMORY_LOW = 0,      /* the memory of activations goes back to the system as soon as they are read */
    DIPGO_MEMORY_BALANCED = 1, /* it is kept, once for all engines */
    DIPGO_MEMORY_FAST = 2      /* a new session brings weights and activations into memory before the first image */
} dipgo_memory;

typedef enum dipgo_verify DIPGO_ENUM {
    DIPGO_VERIFY_FULL = 0, /* files that changed since they were last hashed are hashed */
    DIPGO_VERIFY_SIZES = 1 /* sizes only. Everything that plan.json says is checked in either case */
} dipgo_verify;

/* So many images made together, of such a size. Height and width are in the units that the bundle was built in:
 * pixels, or of an ONNX file, and of a bundle for a single shape without an image decoder, the latents. Where a shape
 * is asked for, 0 leaves a field open. Since version 2. */
typedef struct dipgo_shape {
    size_t images;
    size_t height;
    size_t width;
} dipgo_shape;

/* Begin with dipgo_plan_default_params(): later versions add fields at the end. */
typedef struct dipgo_plan_params {
    size_t size;          /* of this structure: set by dipgo_plan_default_params */
    int32_t threads;      /* that compute one engine together; 0: ONNX Runtime's choice, the physical cores */
    dipgo_memory memory;  /* balanced */
    dipgo_verify verify;  /* full */
    const char *provider; /* "cpu", "cuda"; NULL: what the bundle was built for */
    dipgo_shape shape;    /* of a bundle for several, the one to load: the first that fits. Zeros: the largest */
} dipgo_plan_params;

DIPGO_EXPORT dipgo_plan_params dipgo_plan_default_params(void);

/* Load the bundle in the directory `path` (UTF-8). `params` may be NULL: the defaults. On success *plan is a new
 * handle, to be freed with dipgo_plan_free; otherwise it is NULL. Any number of plans may be loaded, from any
 * thread. Fails with DIPGO_ERROR_BUNDLE, _BACKEND, _INPUT, _MEMORY. */
DIPGO_EXPORT dipgo_status dipgo_plan_load(const char *path, const dipgo_plan_params *params, dipgo_plan **plan);

/* How many shapes the plan's bundle serves. 0 for NULL. Since version 2. */
DIPGO_EXPORT size_t dipgo_plan_shape_count(const dipgo_plan *plan);

/* One of them; number 0 is the plan's own. Fails with DIPGO_ERROR_INPUT. Since version 2. */
DIPGO_EXPORT dipgo_status dipgo_plan_get_shape(const dipgo_plan *plan, size_t index, dipgo_shape *shape);

/* Load the plan of another shape of the same bundle, the first that fits: *selected is a new handle, to be freed with
 * dipgo_plan_free, whose tensors, infos and sessions are those of that shape. Its engines are opened now, unless
 * another handle or session has them open; weights are shared. Fails with DIPGO_ERROR_INPUT, naming the shapes that
 * there are, and with _BACKEND, _MEMORY; *selected is NULL then. Since version 2. */
DIPGO_EXPORT dipgo_status dipgo_plan_select(const dipgo_plan *plan, const dipgo_shape *shape, dipgo_plan **selected);

/* Free a plan's handle (NULL is fine). Engines and weights go when its last session has gone too. */
DIPGO_EXPORT void dipgo_plan_free(dipgo_plan *plan);

typedef enum dipgo_guidance DIPGO_ENUM {
    DIPGO_UNGUIDED = 0,    /* no classifier-free guidance: a guidance scale makes no difference */
    DIPGO_UNCOND_COND = 1, /* the first half of a condition's batch is for the empty prompt */
    DIPGO_COND_UNCOND = 2
} dipgo_guidance;

typedef struct dipgo_plan_info {
    size_t size;             /* in: sizeof(dipgo_plan_info) */
    size_t images;           /* that are made together: the batch of the latents */
    size_t calls;            /* of the denoiser, computed or not */
    const double *timesteps; /* one for each call */
    dipgo_guidance guidance;
    double guidance_scale; /* what denoise takes unless told otherwise */
    size_t instructions;
    size_t engines;
    uint64_t arena_bytes;      /* of every session */
    int32_t prepacked;         /* 1: the engines come from the bundle's cache for this processor */
    int32_t has_text_encoder;  /* 1: dipgo_session_encode works */
    int32_t has_image_decoder; /* 1: dipgo_session_decode works */
    const char *tokenizer;     /* path of tokenizer.json (Hugging Face tokenizers' own format), or NULL */
    int32_t split_guidance;    /* 1: the halves of a guided batch are computed one after the other, and at a
                                  guidance scale of 1 the conditional one alone. Since version 3 */
} dipgo_plan_info;

/* Fill in what `info->size` has room for. Fails with DIPGO_ERROR_INPUT. */
DIPGO_EXPORT dipgo_status dipgo_plan_get_info(const dipgo_plan *plan, dipgo_plan_info *info);

/* What the plan reads and writes. */
typedef enum dipgo_role DIPGO_ENUM {
    DIPGO_LATENTS = 0,    /* the initial noise, of unit variance: (images, channels, height, width) */
    DIPGO_CONDITION = 1,  /* conditions by name; under guidance their batch is doubled. The latents that an
                             image-to-image plan begins with are one of them */
    DIPGO_DRAW = 2,       /* unit noise that a stochastic scheduler adds, in order of use */
    DIPGO_OUTPUT = 3,     /* the final latents */
    DIPGO_SAMPLE = 4,     /* what one denoiser call reads (dipgo_session_run_call); under guidance doubled */
    DIPGO_NOISE_PRED = 5, /* what it answers */
    DIPGO_TOKENS = 6,     /* the text encoder's token ids, int64: (batch of the denoiser, length) */
    DIPGO_PIXELS = 7      /* the image decoder's RGB bytes: (images, height, width, 3) */
} dipgo_role;

/* How many tensors have this role: one for most, any number of conditions and draws, none where the bundle lacks
 * the part. 0 for NULL. */
DIPGO_EXPORT size_t dipgo_plan_tensor_count(const dipgo_plan *plan, dipgo_role role);

/* Describe one of them. Name and shape belong to the plan; data is NULL. Fails with DIPGO_ERROR_INPUT. */
DIPGO_EXPORT dipgo_status dipgo_plan_get_tensor(const dipgo_plan *plan, dipgo_role role, size_t index,
                                                dipgo_tensor *tensor);

/* --- sessions ---------------------------------------------------------------------------------------------- */

/* Called before the first instruction of every denoiser call that computes anything: call `call` of `calls`. */
typedef void (*dipgo_progress)(void *data, size_t call, size_t calls);

/* Called between instructions; anything but 0 ends the image with DIPGO_ABORTED. */
typedef int (*dipgo_should_abort)(void *data);

/* Callbacks run in the thread that makes the image. They must not throw and may call dipgo_session_abort, but
 * nothing else of their session (DIPGO_BUSY). */
typedef struct dipgo_session_params {
    size_t size;                     /* of this structure: set by dipgo_session_default_params */
    dipgo_progress progress;         /* NULL: none */
    dipgo_should_abort should_abort; /* NULL: none */
    void *data;                      /* for both */
} dipgo_session_params;

DIPGO_EXPORT dipgo_session_params dipgo_session_default_params(void);

/* Allocate an arena and bind all engines to it. `params` may be NULL: no callbacks. On success *session is a new
 * handle, to be freed with dipgo_session_free; otherwise it is NULL. Fails with DIPGO_ERROR_INPUT, _BACKEND,
 * _MEMORY. */
DIPGO_EXPORT dipgo_status dipgo_session_create(const dipgo_plan *plan, const dipgo_session_params *params,
                                               dipgo_session **session);

/* Free a session (NULL is fine) that nobody uses any more. */
DIPGO_EXPORT void dipgo_session_free(dipgo_session *session);

/* Begin with dipgo_image_default_params(). */
typedef struct dipgo_image_params {
    size_t size;                    /* of this structure: set by dipgo_image_default_params */
    const dipgo_tensor *conditions; /* all of the plan's, in any order; checked by name, dtype and shape */
    size_t condition_count;
    const dipgo_tensor *latents; /* the initial noise; NULL: drawn from `seed`. Its name isn't read */
    const dipgo_tensor *draws;   /* all of the plan's, in order; NULL: drawn from `seed`. Names aren't read */
    size_t draw_count;
    uint64_t seed;         /* of the first image; each further image of the batch takes the next one */
    double guidance_scale; /* NaN: the plan's own. It must be NaN where the plan is not guided */
} dipgo_image_params;

DIPGO_EXPORT dipgo_image_params dipgo_image_default_params(void);

/* Make the images of one batch: the final latents, before the image decoder's scaling, are written to `latents`, of
 * `bytes` bytes: exactly those of DIPGO_OUTPUT. What a seed draws is the noise that torch gives for it
 * (dipgo_noise), the initial noise first. At a guidance scale of 1 only what the conditional prediction takes is
 * computed: half of a plan with split guidance. Nothing is allocated. Fails with DIPGO_ERROR_INPUT, _BACKEND, DIPGO_BUSY,
 * DIPGO_ABORTED; the session can make another image after each of them, and `latents` is untouched. */
DIPGO_EXPORT dipgo_status dipgo_session_denoise(dipgo_session *session, const dipgo_image_params *image,
                                                void *latents, size_t bytes);

/* One denoiser call, for hosts with a scheduler of their own: `sample` (DIPGO_SAMPLE) is scaled already, and doubled
 * under guidance (a plan that reads one half for both refuses one whose halves differ); the answer is written to
 * `noise_pred`, of the `bytes` bytes of DIPGO_NOISE_PRED. Calls come in
 * order. Call 0 starts an image, forgets the one before, and is the only one to read `conditions`; for the others
 * they may be NULL and 0; latents to begin with (image-to-image) are not among them. Calls that compute nothing cost
 * a copy. After a failure the image starts again with
 * call 0. Fails as dipgo_session_denoise does. */
DIPGO_EXPORT dipgo_status dipgo_session_run_call(dipgo_session *session, size_t call, const dipgo_tensor *sample,
                                                 const dipgo_tensor *conditions, size_t condition_count,
                                                 void *noise_pred, size_t bytes);

/* Forget the image that run_call was at: the next call is 0. Fails with DIPGO_ERROR_INPUT, DIPGO_BUSY. */
DIPGO_EXPORT dipgo_status dipgo_session_reset(dipgo_session *session);

/* End the image that the session is at, from any thread: that call returns DIPGO_ABORTED as soon as ONNX Runtime
 * lets go of its engine, between two operators. Nothing happens where the session is idle. Fails with
 * DIPGO_ERROR_INPUT. */
DIPGO_EXPORT dipgo_status dipgo_session_abort(dipgo_session *session);

/* Token ids (DIPGO_TOKENS) to conditions, in one array for each DIPGO_CONDITION in its order: `conditions[i]` has
 * room for its bytes; that of an image-to-image plan's latents is not written and may be NULL. The text encoder is
 * opened at the first use. For bundles of `build --pipeline`. Fails with
 * DIPGO_ERROR_INPUT, _BACKEND, DIPGO_BUSY. */
DIPGO_EXPORT dipgo_status dipgo_session_encode(dipgo_session *session, const dipgo_tensor *tokens,
                                               void *const *conditions, size_t condition_count);

/* Final latents (DIPGO_OUTPUT) to RGB bytes, of the `bytes` bytes of DIPGO_PIXELS. The image decoder is opened at
 * the first use. For bundles of `build --pipeline`. Fails with DIPGO_ERROR_INPUT, _BACKEND, DIPGO_BUSY. */
DIPGO_EXPORT dipgo_status dipgo_session_decode(dipgo_session *session, const dipgo_tensor *latents, uint8_t *pixels,
                                               size_t bytes);

/* Where the time of the last denoise or run_call went. */
typedef struct dipgo_times {
    size_t size;           /* in: sizeof(dipgo_times) */
    double seconds;        /* from the first instruction to the last */
    double engine_seconds; /* of these, inside ONNX Runtime */
    size_t runs;           /* engines computed */
    size_t instructions;   /* followed, the runs among them */
} dipgo_times;

/* Fill in what `times->size` has room for. Fails with DIPGO_ERROR_INPUT, DIPGO_BUSY. */
DIPGO_EXPORT dipgo_status dipgo_session_get_times(dipgo_session *session, dipgo_times *times);

/* --- noise ------------------------------------------------------------------------------------------------- */

/* What torch.Generator().manual_seed(seed) gives to `draws` calls of torch.randn on a CPU, of `counts[i]` numbers
 * each, to within two float32 roundings: one after the other into `noise`. Any thread, no state. Fails with
 * DIPGO_ERROR_INPUT. */
DIPGO_EXPORT dipgo_status dipgo_noise(uint64_t seed, const size_t *counts, size_t draws, float *noise);

#ifdef __cplusplus
}
#endif

#endif
