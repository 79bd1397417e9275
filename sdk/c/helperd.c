/* SPDX-License-Identifier: Apache-2.0
 *
 * The capture framework behind helperd.h: protocol v3 of Kismet's helpers, helper side, and helperd's bulk extension.
 *
 *     capture thread: hd_packet --> batch --> ring --> the server      main thread: requests, PING, what the ring still holds
 *     channel thread: channel_set, hop
 *
 * Rules:
 *   1. One lock guards batch, ring and every decision to end. Nobody waits or calls the author's code while holding it.
 *   2. The ring holds whole frames. Room for answers is kept free in it, so that the main thread never waits.
 *   3. No allocation but the ring, at the start.
 *   4. Nothing from the server is believed: every read of a payload is checked against its end.
 *
 * Source of facts: docs/protocol.md.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "helperd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define SDK "helperd C SDK 1"
#define SUBSYSTEM "helperd-bulk/2"

enum {
    PING = 2, PONG = 3, SHUTDOWN = 4, MESSAGE = 5, ERROR = 6, PROBEREQ = 10, PROBEREPORT = 11, OPENREQ = 12,
    OPENREPORT = 13, LISTREQ = 14, LISTREPORT = 15, PACKET = 16, CONFIGREQ = 17, CONFIGREPORT = 18, NEWSOURCE = 19,
    REGISTER = 1, BULK = 0x4844, COUNT = 0x4845
};
enum {
    HEADER = 20,
    REPORT = 16383,                  /* bytes of a frame that a Kismet server of 2025 still takes */
    INPUT = 65536,                   /* bytes of a frame that we take */
    BATCH = 32 << 10,                /* bytes of blocks in a bulk frame, unless one packet is longer */
    RUNS = 512,                      /* entries of its index */
    SEALED = HEADER + 8 + 8 * RUNS + BATCH,
    RESERVE = 20 << 10,              /* of the ring, for answers */
    SMALL_RING = 112 << 10,          /* what is used of it until a packet comes that needs more: fewer pages */
    LEAST_RING = 320 << 10,
    MAX_BLOCK = 262144,              /* what dumpcap takes of a pipe */
    TEXT = 1024,                     /* of a message */
    LINKTYPES = 32, OPTIONS = 128, CHANNELS = 1024, NAME = 64, REQUESTS = 8,
    USAGE = 64, UNAVAILABLE = 69,
    PROBLEM = 64                     /* key of the problem word in a report that says no */
};
static const double WATCHDOG_S = 15, GRACE_S = 0.5, STOP_GRACE_S = 0.5, NUMBER_S = 2, TICK_S = 0.002, SHORTEST_S = 0.05,
                    RETRY_S = 5, CONNECT_S = 10;

struct hd_definition {
    char text[8192];
    const char *interface;
    int options, loose;
    struct { const char *key; char *value; } option[OPTIONS];
};

struct failure { char problem[32], text[TEXT]; };

struct plan { /* a hop list and how to walk it; what is behind `channels` is not touched, nor copied */
    int channels, place, failed, shuffle;
    double rate;
    unsigned skip, offset;
    struct failure why;              /* the last channel that could not be tuned */
    struct { int64_t value; int order, bad; char name[NAME]; } at[CHANNELS];
};

struct request { /* what a CONFIGREQ asks for; has_*: whether the server said it */
    uint32_t seqno;
    int hops, channels, has_rate, has_shuffle, has_skip, has_offset, shuffle;
    double rate;
    unsigned skip, offset;
    char name[CHANNELS][NAME];
};

static struct {
    const hd_helper *helper;
    int in_fd, out_fd, wake[2], stop[2], remote;
    pthread_mutex_t lock;
    pthread_cond_t changed;          /* room in the ring, a number of an interface, the end, a request to tune */
    pthread_t job, tuner;

    unsigned char *ring;
    size_t allocated, capacity, head, queued;
    int waiting, polls_out, idle, broken;

    unsigned char batch[BATCH];
    size_t batched;
    uint32_t packets, runs, run_length[RUNS], run_count[RUNS], interface;
    double sealed_at;

    uint32_t seqno;
    int helperd, bulk, offered, opened, working, job_made, done, tuning, listening;
    double ping_at, end_by;
    int ending, stopping, status;
    char farewell[TEXT];

    unsigned char input[INPUT];
    size_t buffered;

    int asked;                       /* PROBEREQ, OPENREQ or LISTREQ: the one job of this process */
    uint32_t asked_seqno;
    hd_definition definition;
    int dlt;
    struct { int dlt, number, known; } linktype[LINKTYPES];
    int linktypes;

    struct failure refusal, tune_refusal;
    char reason[TEXT];
    hd_radio radio;
    hd_position position;
    int has_radio, has_position;
    uint64_t refused, refused_told, cut, cut_told, too_long;

    struct request request[REQUESTS];
    int first, requests;
    struct plan plan, before;
    int hopping, has_before, works;  /* has_before: 1 a plan, 2 a channel */
    char channel[NAME], before_channel[NAME];
} hd;

static volatile sig_atomic_t signalled;
static int wake_fd = -1;

/* Time */

static double monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Wait for `changed` until a moment; the lock is held. */
static void wait_changed(double until)
{
    struct timespec at;
    if (until <= 0) {
        pthread_cond_wait(&hd.changed, &hd.lock);
        return;
    }
    at.tv_sec = (time_t)until;
    at.tv_nsec = (long)((until - (double)at.tv_sec) * 1e9);
    pthread_cond_timedwait(&hd.changed, &hd.lock, &at);
}

static void wake(void)
{
    ssize_t ignored = write(hd.wake[1], "w", 1);
    (void)ignored;
}

/* Writing msgpack: what does not fit sets `full`. */

struct out { unsigned char *data; size_t size, room; int full; };

static void put(struct out *out, const void *data, size_t size)
{
    if (size > out->room - out->size) {
        out->full = 1;
        return;
    }
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_big(struct out *out, int code, uint64_t value, int bytes)
{
    unsigned char number[9];
    int at;
    number[0] = (unsigned char)code;
    for (at = 1; at <= bytes; at++)
        number[at] = (unsigned char)(value >> 8 * (bytes - at));
    put(out, number + (code < 0), (size_t)bytes + (code >= 0));
}

static void put_uint(struct out *out, uint64_t value)
{
    if (value < 0x80) put_big(out, (int)value, 0, 0);
    else if (value <= 0xFFFF) put_big(out, 0xCD, value, 2);
    else if (value <= 0xFFFFFFFF) put_big(out, 0xCE, value, 4);
    else put_big(out, 0xCF, value, 8);
}

static void put_head(struct out *out, int small, int wide, size_t count)
{
    if (count < 16) put_big(out, small | (int)count, 0, 0);
    else put_big(out, wide, count, 2);
}

static void put_map(struct out *out, size_t count) { put_head(out, 0x80, 0xDE, count); }
static void put_array(struct out *out, size_t count) { put_head(out, 0x90, 0xDC, count); }
static void put_bool(struct out *out, int value) { put_big(out, value ? 0xC3 : 0xC2, 0, 0); }

static void put_double(struct out *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put_big(out, 0xCB, bits, 8);
}

static void put_text_of(struct out *out, const char *text, size_t size)
{
    if (size < 32) put_big(out, 0xA0 | (int)size, 0, 0);
    else if (size <= 0xFFFF) put_big(out, 0xDA, size, 2);
    else put_big(out, 0xDB, size, 4);
    put(out, text, size);
}

static void put_text(struct out *out, const char *text) { put_text_of(out, text, strlen(text)); }

static int has(const char *text) { return text != NULL && *text != '\0'; }

static void put_texts(struct out *out, const char *const *texts)
{
    size_t number = 0;
    while (texts[number]) number++;
    put_array(out, number);
    for (; *texts; texts++) put_text(out, *texts);
}

/* A map of integer keys: for each letter a key and a value. i: int, U: uint64_t, d: double, b: truth, s: text, l: texts, z: int,
 * Z: uint64_t; the last four are left out when they are empty or 0. +: one more pair, which the caller writes behind it. */
static void pack(struct out *out, const char *kinds, ...)
{
    size_t head = out->size, pairs = 0;
    va_list values;
    put_map(out, 0);
    va_start(values, kinds);
    for (; *kinds; kinds++, pairs++) {
        uint64_t key = *kinds == '+' ? 0 : (uint64_t)va_arg(values, int), number = 0;
        const char *text = NULL;
        const char *const *texts = NULL;
        if (*kinds == 's') text = va_arg(values, const char *);
        else if (*kinds == 'l') texts = va_arg(values, const char *const *);
        else if (*kinds == 'U' || *kinds == 'Z') number = va_arg(values, uint64_t);
        else if (*kinds != 'd' && *kinds != '+') number = (uint32_t)va_arg(values, int);
        if (*kinds == '+') continue;
        if ((*kinds == 's' && !has(text)) || (*kinds == 'l' && !texts) || ((*kinds | 32) == 'z' && !number)) {
            pairs--;
            continue;
        }
        put_uint(out, key);
        if (text) put_text(out, text);
        else if (texts) put_texts(out, texts);
        else if (*kinds == 'd') put_double(out, va_arg(values, double));
        else if (*kinds == 'b') put_bool(out, number != 0);
        else put_uint(out, number);
    }
    va_end(values);
    if (!out->full) out->data[head] = (unsigned char)(0x80 | pairs);
}

/* Begin a frame; its length and number are filled in when it is queued. */
static struct out frame(unsigned char *data, size_t room, int type, int code, uint32_t seqno)
{
    struct out out = {NULL, 0, 0, 0};
    out.data = data;
    out.room = room;
    put(&out, "\xDE\xCA\xFB\xAD\xA9\xA9\0\3\0\0\0\0", 12);
    put_big(&out, -1, (uint64_t)type, 2);
    put_big(&out, -1, (uint64_t)code, 2);
    put_big(&out, -1, seqno, 4);
    return out;
}

static void store(unsigned char *to, uint32_t value) /* big-endian */
{
    to[0] = (unsigned char)(value >> 24), to[1] = (unsigned char)(value >> 16);
    to[2] = (unsigned char)(value >> 8), to[3] = (unsigned char)value;
}

static uint32_t load(const unsigned char *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void store_little(unsigned char *to, uint32_t value)
{
    to[0] = (unsigned char)value, to[1] = (unsigned char)(value >> 8);
    to[2] = (unsigned char)(value >> 16), to[3] = (unsigned char)(value >> 24);
}

/* Reading msgpack: every function says 0, or -1 for what is no msgpack, not the type, or beyond the end. */

struct in { const unsigned char *at, *end; int values; };

static int take(struct in *in, size_t bytes, uint64_t *value)
{
    if ((size_t)(in->end - in->at) < bytes) return -1;
    for (*value = 0; bytes > 0; bytes--) *value = *value << 8 | *in->at++;
    return 0;
}

/* The head of any value: kind is one of 'u'nsigned, '-' (negative), 'f'loat, 'b'ool, 's'tr, 'x' (bin), 'a'rray, 'm'ap. */
static int take_head(struct in *in, char *kind, uint64_t *value, double *real)
{
    uint64_t code;
    float single;
    uint32_t bits;
    if (++in->values > 8192 || take(in, 1, &code)) return -1;
    *value = code;
    if (code < 0x80) { *kind = 'u'; return 0; }
    if (code < 0x90) { *kind = 'm'; *value = code & 15; return 0; }
    if (code < 0xA0) { *kind = 'a'; *value = code & 15; return 0; }
    if (code < 0xC0) { *kind = 's'; *value = code & 31; return 0; }
    if (code >= 0xE0) { *kind = '-'; return 0; }
    switch (code) {
    case 0xC2: case 0xC3: *kind = 'b'; *value = code & 1; return 0;
    case 0xC4: case 0xC5: case 0xC6: *kind = 'x'; return take(in, (size_t)1 << (code - 0xC4), value);
    case 0xCA:
        *kind = 'f';
        if (take(in, 4, value)) return -1;
        bits = (uint32_t)*value;
        memcpy(&single, &bits, 4);
        *real = single;
        return 0;
    case 0xCB:
        *kind = 'f';
        if (take(in, 8, value)) return -1;
        memcpy(real, value, 8);
        return 0;
    case 0xCC: case 0xCD: case 0xCE: case 0xCF: *kind = 'u'; return take(in, (size_t)1 << (code - 0xCC), value);
    case 0xD0: case 0xD1: case 0xD2: case 0xD3: {
        size_t bytes = (size_t)1 << (code - 0xD0);
        if (take(in, bytes, value)) return -1;
        *kind = *value >> (8 * bytes - 1) & 1 ? '-' : 'u';
        return 0;
    }
    case 0xD9: case 0xDA: case 0xDB: *kind = 's'; return take(in, (size_t)1 << (code - 0xD9), value);
    case 0xDC: case 0xDD: *kind = 'a'; return take(in, (size_t)2 << (code - 0xDC), value);
    case 0xDE: case 0xDF: *kind = 'm'; return take(in, (size_t)2 << (code - 0xDE), value);
    default: return -1; /* nil, extension types, what does not exist */
    }
}

static int skip(struct in *in, int depth)
{
    char kind;
    uint64_t value;
    double real;
    if (depth > 8 || take_head(in, &kind, &value, &real)) return -1;
    if (kind == 's' || kind == 'x') {
        if (value > (uint64_t)(in->end - in->at)) return -1;
        in->at += value;
    } else if (kind == 'a' || kind == 'm') {
        for (value *= kind == 'm' ? 2 : 1; value > 0; value--)
            if (skip(in, depth + 1)) return -1;
    }
    return 0;
}

/* Find a key of the map at `in`. 1: found, *found stands before its value; 0: absent; -1: wrong, or there twice. */
static int find(struct in in, uint64_t key, struct in *found)
{
    char kind;
    uint64_t pairs, one;
    double real;
    int result = 0;
    if (take_head(&in, &kind, &pairs, &real) || kind != 'm') return -1;
    for (; pairs > 0; pairs--) {
        if (take_head(&in, &kind, &one, &real) || kind != 'u') return -1;
        if (one == key) {
            if (result) return -1;
            result = 1;
            *found = in;
        }
        if (skip(&in, 1)) return -1;
    }
    return result;
}

/* A value of one kind; for texts, *text is where it stands. */
static int take_kind(struct in *in, char wanted, uint64_t *value, double *real, const char **text)
{
    char kind;
    if (take_head(in, &kind, value, real)) return -1;
    if (wanted == 'f' && kind == 'u') { *real = (double)*value; return 0; }
    if (kind != wanted) return -1;
    if (kind == 's') {
        if (*value > (uint64_t)(in->end - in->at)) return -1;
        *text = (const char *)in->at;
        in->at += *value;
    }
    return 0;
}

static int find_kind(struct in map, uint64_t key, char wanted, uint64_t *value, double *real, const char **text)
{
    struct in at;
    int found = find(map, key, &at);
    return found < 1 ? found : take_kind(&at, wanted, value, real, text) ? -1 : 1;
}

/* The ring */

static size_t sealed_size(void) { return hd.packets ? HEADER + 8 + 8 * (size_t)hd.runs + hd.batched : 0; }
static size_t room(void) { return hd.capacity - hd.queued - sealed_size(); }

static void queue(const void *data, size_t size)
{
    size_t tail = (hd.head + hd.queued) % hd.capacity, first = hd.capacity - tail;
    if (first > size) first = size;
    memcpy(hd.ring + tail, data, first);
    memcpy(hd.ring, (const unsigned char *)data + first, size - first);
    hd.queued += size;
}

/* Write what the server takes now; the lock is held. */
static void drain(void)
{
    while (hd.queued > 0 && !hd.broken) {
        struct iovec parts[2];
        size_t first = hd.capacity - hd.head;
        ssize_t wrote;
        parts[0].iov_base = hd.ring + hd.head;
        parts[0].iov_len = hd.queued < first ? hd.queued : first;
        parts[1].iov_base = hd.ring;
        parts[1].iov_len = hd.queued - parts[0].iov_len;
        wrote = writev(hd.out_fd, parts, parts[1].iov_len ? 2 : 1);
        if (wrote < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) break;
            hd.broken = 1;
            break;
        }
        hd.queued -= (size_t)wrote;
        hd.head = hd.queued ? (hd.head + (size_t)wrote) % hd.capacity : 0; /* an empty one begins anew: fewer pages */
    }
    if (hd.broken) {
        hd.queued = 0;
        hd.packets = hd.runs = 0;
        hd.batched = 0;
        wake();
    }
    if (hd.waiting && hd.queued <= hd.capacity / 4) pthread_cond_broadcast(&hd.changed);
}

static uint32_t next_seqno(void)
{
    if (++hd.seqno == 0) hd.seqno = 1;
    return hd.seqno;
}

/* Make a bulk frame of the batch; its room has been kept. */
static void seal(void)
{
    unsigned char head[HEADER + 8], entry[8];
    struct out out;
    uint32_t run;
    if (!hd.packets) return;
    out = frame(head, sizeof head, BULK, 0, next_seqno());
    store(head + 8, (uint32_t)(8 + 8 * hd.runs + hd.batched));
    store_little(head + HEADER, hd.packets);
    store_little(head + HEADER + 4, hd.runs);
    (void)out;
    queue(head, sizeof head);
    for (run = 0; run < hd.runs; run++) {
        store_little(entry, hd.run_length[run]);
        store_little(entry + 4, hd.run_count[run]);
        queue(entry, 8);
    }
    queue(hd.batch, hd.batched);
    hd.packets = hd.runs = 0;
    hd.batched = 0;
}

/* Let what is queued leave: now what the server takes, the rest by the main thread. */
static void push(void)
{
    drain();
    if (hd.queued > 0 && !hd.polls_out) wake();
}

static void wait_room(void)
{
    hd.waiting++;
    wait_changed(monotonic() + 1);
    hd.waiting--;
}

/* Wait until so many bytes are free beside the reserve; the lock is held. -1: the helper shall end. */
static int make_room(size_t need)
{
    int grow = need > hd.capacity - RESERVE;
    if (need > hd.allocated - RESERVE) return -1;
    while (grow && !hd.broken && !hd.stopping && hd.queued) {
        push();
        if (hd.queued) wait_room();
    }
    if (grow) hd.capacity = hd.allocated;
    while (!hd.broken && !hd.stopping && room() < need + RESERVE) {
        seal();
        push();
        if (room() >= need + RESERVE || hd.broken || hd.stopping) continue;
        wait_room();
    }
    return hd.broken || hd.stopping ? -1 : 0;
}

/* Fill in the length, and the number unless it is that of the request it answers. */
static void finish_frame(struct out *out)
{
    int type = out->data[12] << 8 | out->data[13];
    store(out->data + 8, (uint32_t)(out->size - HEADER));
    if (type != PONG && type != ERROR && type != PROBEREPORT && type != OPENREPORT && type != CONFIGREPORT)
        store(out->data + 16, next_seqno());
}

/* Queue a frame behind everything written so far; the lock is held. The main thread never waits, others may. */
static int send_frame(struct out *out)
{
    int main_thread = !(hd.working && pthread_equal(pthread_self(), hd.job)) &&
                      !(hd.tuning && pthread_equal(pthread_self(), hd.tuner));
    int ended = 0;
    if (out->full) return -1;
    if (!main_thread) ended = make_room(out->size);
    if (hd.broken || room() < out->size) return -1;
    finish_frame(out);
    seal();
    queue(out->data, out->size);
    push();
    return ended;
}

static int send_now(struct out *out)
{
    int result;
    pthread_mutex_lock(&hd.lock);
    result = send_frame(out);
    pthread_mutex_unlock(&hd.lock);
    return result;
}

static void send_text(int severity, const char *text)
{
    unsigned char data[HEADER + TEXT + 16];
    struct out out = frame(data, sizeof data, MESSAGE, 0, 0);
    pack(&out, "is", 1, severity, 2, has(text) ? text : " ");
    send_now(&out);
}

static void send_shutdown(const char *why)
{
    unsigned char data[HEADER + TEXT + 16];
    struct out out = frame(data, sizeof data, SHUTDOWN, 1, 0);
    pack(&out, "s", 1, why);
    send_now(&out);
}

static void send_error(uint32_t request, const char *text, const char *problem)
{
    unsigned char data[HEADER + TEXT + 64];
    struct out out = frame(data, sizeof data, ERROR, 1, request);
    pack(&out, "ss", 1, text, PROBLEM, problem);
    send_now(&out);
}

static void send_register(int dlt)
{
    unsigned char data[HEADER + 64];
    struct out out = frame(data, sizeof data, REGISTER, 0, 0);
    pack(&out, dlt < 0 ? "s" : "si", 1, SUBSYSTEM, 65, dlt);
    send_frame(&out);
}

/* The end */

/* End because somebody wants it: the capture must return, the rest leaves within a bounded time. The lock is held. */
static void end(const char *why, int status, int farewell)
{
    ssize_t ignored;
    if (hd.end_by > 0) return;
    hd.ending = hd.stopping = 1;
    if (farewell) snprintf(hd.farewell, sizeof hd.farewell, "%s", why);
    if (!hd.status) hd.status = status;
    hd.end_by = monotonic() + STOP_GRACE_S + GRACE_S;
    ignored = write(hd.stop[1], "s", 1);
    (void)ignored;
    pthread_cond_broadcast(&hd.changed);
    wake();
}

/* End because the work is done: everything leaves first, however long the server takes to read it. */
static void finish(int status)
{
    pthread_mutex_lock(&hd.lock);
    hd.ending = 1;
    if (!hd.status) hd.status = status;
    wake();
    pthread_mutex_unlock(&hd.lock);
}

/* What authors call in callbacks */

static struct failure *own_failure(void)
{
    return hd.tuning && pthread_equal(pthread_self(), hd.tuner) ? &hd.tune_refusal : &hd.refusal;
}

int hd_refuse(const char *problem, const char *format, ...)
{
    struct failure *failure = own_failure();
    va_list words;
    snprintf(failure->problem, sizeof failure->problem, "%s", problem ? problem : "");
    va_start(words, format);
    vsnprintf(failure->text, sizeof failure->text, format, words);
    va_end(words);
    return -1;
}

int hd_refuse_errno(int number, const char *what)
{
    const char *word = "";
    switch (number) {
    case EACCES: case EPERM: word = "not-permitted"; break;
    case EBUSY: word = "busy"; break;
    case EMFILE: case ENFILE: case ENOMEM: word = "no-resources"; break;
    case ENODEV: case ENXIO: case EIO: word = hd.opened ? "device-gone" : ""; break;
    default: break;
    }
    return hd_refuse(word, "%s: %s", what, strerror(number));
}

int hd_end(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    vsnprintf(hd.reason, sizeof hd.reason, format, words);
    va_end(words);
    return 0;
}

void hd_message(int severity, const char *format, ...)
{
    char text[TEXT];
    va_list words;
    va_start(words, format);
    vsnprintf(text, sizeof text, format, words);
    va_end(words);
    if (hd.out_fd < 0) fprintf(stderr, "%s: %s\n", hd.helper ? hd.helper->type : "helper", text);
    else send_text(severity, text);
}

int hd_stopping(void)
{
    int stopping;
    pthread_mutex_lock(&hd.lock);
    stopping = hd.stopping || hd.broken;
    pthread_mutex_unlock(&hd.lock);
    return stopping;
}

int hd_stop_fd(void) { return hd.stop[0]; }

int hd_wait(double seconds)
{
    double until = monotonic() + (seconds > 0 ? seconds : 0);
    int stopping;
    if (hd_flush()) return -1;
    pthread_mutex_lock(&hd.lock);
    while (!hd.stopping && !hd.broken && monotonic() < until) wait_changed(until);
    stopping = hd.stopping || hd.broken;
    pthread_mutex_unlock(&hd.lock);
    return stopping ? -1 : 0;
}

/* Definitions */

static const char *const COMMON[] = {
    "type", "name", "uuid", "retry", "timestamp", "channel", "channels", "add_channels", "block_channels", "channel_hop",
    "channel_hoprate", "metagps", "info_antenna_type", "info_antenna_gain", "info_antenna_orientation",
    "info_antenna_beamwidth", "info_amp_type", "info_amp_gain", NULL};

const char *hd_interface(const hd_definition *definition) { return definition->interface; }

const char *hd_get(const hd_definition *definition, const char *key)
{
    int at;
    for (at = 0; at < definition->options; at++)
        if (!strcmp(definition->option[at].key, key)) return definition->option[at].value;
    return NULL;
}

int hd_number(const hd_definition *definition, const char *key, long least, long most, long *value)
{
    const char *text = hd_get(definition, key);
    char *after;
    long number;
    if (!text) return 0;
    errno = 0;
    number = strtol(text, &after, 10);
    if (after == text || errno || (*after && !(definition->loose && *after == ',')))
        return hd_refuse("bad-definition", "%s=%s: not a whole number", key, text);
    if (number < least || number > most)
        return hd_refuse("bad-definition", "%s=%s: from %ld to %ld", key, text, least, most);
    *value = number;
    return 0;
}

int hd_flag(const hd_definition *definition, const char *key, int otherwise)
{
    const char *text = hd_get(definition, key);
    if (text && (!strcasecmp(text, "true") || !strcasecmp(text, "t"))) return 1;
    if (text && (!strcasecmp(text, "false") || !strcasecmp(text, "f"))) return 0;
    return otherwise;
}

static char *strip(char *text)
{
    size_t size;
    while (isspace((unsigned char)*text)) text++;
    size = strlen(text);
    while (size > 0 && isspace((unsigned char)text[size - 1])) text[--size] = '\0';
    return text;
}

static void unquote(char *text)
{
    char *to = text;
    for (; *text; text++)
        if (*text != '"') *to++ = *text;
    *to = '\0';
}

static int is_known(const char *key, int common)
{
    const hd_option *option = hd.helper->options;
    const char *const *name = COMMON;
    for (; common && *name; name++)
        if (!strcmp(*name, key)) return 1;
    for (; option && option->name; option++)
        if (!strcmp(option->name, key)) return 1;
    return 0;
}

static int bad(const char *text, const char *why)
{
    return hd_refuse("bad-definition", "'%.400s': %s; write interface:key=value,key=value", text, why);
}

/* Cut the interface off: quoted, with "" for a quote, or up to the first colon. Returns the options, or NULL. */
static char *cut_interface(hd_definition *to)
{
    char *text = to->text, *at, *into;
    while (isspace((unsigned char)*text)) text++;
    if (*text == '"') {
        for (at = into = text + 1; *at && (*at != '"' || at[1] == '"'); at++) {
            if (*at == '"') at++;
            *into++ = *at;
        }
        if (*at == '"') {
            do at++; while (isspace((unsigned char)*at));
            if (!*at || *at == ':') {
                char *rest = *at ? at + 1 : at;
                *into = '\0';
                to->interface = text + 1;
                return rest;
            }
        }
        return NULL;
    }
    at = strchr(text, ':');
    if (!at) at = text + strlen(text);
    into = *at ? at + 1 : at;
    *at = '\0';
    to->interface = strip(text);
    return into;
}

/* Add an option, or words to one. -1: too many. */
static int set_option(hd_definition *to, const char *key, char *value)
{
    if (to->options == OPTIONS) return -1;
    to->option[to->options].key = key;
    to->option[to->options++].value = value;
    return 0;
}

/* Whether a word may continue an option's value in text that a Kismet server has made. */
static int is_list(const char *key)
{
    return !is_known(key, 0) ? !strcmp(key, "channels") || !strcmp(key, "add_channels") ||
           !strcmp(key, "block_channels") || !strcmp(key, "name") || !strcmp(key, "info_antenna_type") ||
           !strcmp(key, "info_amp_type") : 1;
}

/* Read a definition: strictly from helperd, and from a Kismet server whatever it has made of it (quotes gone, a list cut to
 * its first word, options twice: the first counts). 0, or -1: refused. */
static int read_definition(hd_definition *to, const char *text, size_t size, int loose)
{
    char *part, *next, *last = NULL, *at;
    int quoted = 0, stray = 0, twice = 0, number;
    if (size >= sizeof to->text) return hd_refuse("bad-definition", "a definition of %lu bytes is too long", (unsigned long)size);
    memcpy(to->text, text, size);
    to->text[size] = '\0';
    to->options = 0;
    to->loose = loose;
    for (at = to->text; at < to->text + size; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7F) {
            if (!loose || !*at) return hd_refuse("bad-definition", "a control character in the definition; write it without");
            *at = ' ';
        }
    part = cut_interface(to);
    if (!part) return hd_refuse("bad-definition", "a quoted interface ends with a quote and a colon");
    if (!*to->interface) return bad(part, "the interface is missing");
    if (!loose && to->interface != to->text + 1 && strchr(to->interface, ','))
        return bad(to->interface, "a comma before the first colon");
    for (at = part; *at; at++) quoted ^= *at == '"';
    if (quoted && !loose) return bad(part, "a quote is not closed");
    if (quoted) unquote(part);
    for (; part; part = next) {
        char *key, *value;
        for (quoted = 0, at = part; *at && (quoted || *at != ','); at++) quoted ^= *at == '"';
        next = *at ? at + 1 : NULL;
        *at = '\0';
        value = strchr(part, '=');
        if (value && value != part && !memchr(part, '"', (size_t)(value - part))) {
            *value++ = '\0';
            unquote(value);
            value = strip(value);
            key = strip(part);
            for (at = key; *at; at++) *at = (char)tolower((unsigned char)*at);
            if (!loose && (!*key || strchr(key, ':'))) return bad(key, "no key");
            for (number = 0; number < to->options && strcmp(to->option[number].key, key); number++) continue;
            if (number < to->options) {
                if (loose) twice++;
                else to->option[number].value = value;
            } else if (set_option(to, key, value)) {
                return bad(to->interface, "too many options");
            }
            last = loose && (number < to->options - 1 || !is_list(key)) ? NULL : value;
        } else {
            unquote(part);
            part = strip(part);
            if (!*part) continue;
            if (!last) {
                if (!loose) return bad(part, "not key=value");
                stray++;
                continue;
            }
            for (at = last; *at; at++) continue;
            *at = ',';
            memmove(at + 1, part, strlen(part) + 1);
        }
    }
    if (stray) hd_message(HD_ERROR, "%d words that belong to no option are left out, perhaps the end of a list (in %.*s)",
                          stray, (int)(size < 400 ? size : 400), text);
    if (twice) hd_message(HD_ERROR, "an option is given twice, the first counts (in %.*s)", (int)(size < 400 ? size : 400), text);
    return 0;
}

/* Refuse options nobody knows; leave out and tell what a Kismet server may have made up. */
static int check_options(hd_definition *definition)
{
    char known[512] = "";
    const hd_option *option = hd.helper->options;
    int at, kept = 0;
    for (; option && option->name; option++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", option->name);
    for (at = 0; at < definition->options; at++) {
        if (is_known(definition->option[at].key, 1)) {
            definition->option[kept++] = definition->option[at];
            continue;
        }
        hd_refuse("bad-definition", "%s has no option '%.100s'; it knows %s", hd.helper->type, definition->option[at].key,
                  *known ? known : "none of its own");
        if (!definition->loose) return -1;
        hd_message(HD_ERROR, "%s", hd.refusal.text);
    }
    definition->options = kept;
    return 0;
}

static uint32_t checksum(const char *text)
{
    uint32_t one = 0, two = 0;
    if (strlen(text) < 4) return 0;
    for (; *text; text++) {
        one += (unsigned char)*text;
        two += one;
    }
    return (one & 0xFFFF) + (two << 16);
}

/* The identity of a device, the same after every restart; as helperd.wire.identity. */
static const char *uuid_of(const hd_definition *definition, const char *own, char to[40])
{
    const char *given = hd_get(definition, "uuid"), *from = hd.helper->identity, *at;
    char name[256];
    uint64_t hash = 0xCBF29CE484222325u;
    if (has(given)) return given;
    if (has(own)) return own;
    if (hd.helper->shared && hd.helperd) return NULL;
    if (!has(from)) {
        snprintf(name, sizeof name, "helperd_%s", hd.helper->type);
        from = name;
    }
    if (!strncmp(from, "kismet_cap_", 11)) {
        hash = checksum(definition->interface);
        if (strlen(definition->interface) < 4)
            for (hash = 0, at = definition->interface; *at; at++) hash = hash << 8 | (unsigned char)*at;
    } else {
        for (at = from; *at; at++) hash = (hash ^ (unsigned char)*at) * 0x100000001B3u;
        hash *= 0x100000001B3u; /* a NUL between the two */
        for (at = definition->interface; *at; at++) hash = (hash ^ (unsigned char)*at) * 0x100000001B3u;
        hash = (hash >> 48) ^ (hash & 0xFFFFFFFFFFFFu);
    }
    snprintf(to, 40, "%08lX-0000-0000-0000-%04lX%08lX", (unsigned long)checksum(from), (unsigned long)(hash >> 32 & 0xFFFF),
             (unsigned long)(hash & 0xFFFFFFFFu));
    return to;
}

/* Packets */

void hd_signal(const hd_radio *radio)
{
    hd.has_radio = radio != NULL;
    if (radio) hd.radio = *radio;
}

void hd_gps(const hd_position *position)
{
    hd.has_position = position != NULL;
    if (position) hd.position = *position;
}

static void count(uint64_t packets, const char *word)
{
    unsigned char data[HEADER + 64];
    struct out out = frame(data, sizeof data, COUNT, 0, 0);
    if (!packets || !hd.helperd || !hd.opened) return;
    pack(&out, "sU", 1, word, 2, packets);
    send_now(&out);
}

void hd_lost(uint64_t packets, const char *word)
{
    static const char *const WORDS[] = {"kernel", "device", "helper-queue", "link-type", "too-long", "bad-record",
                                        "cut", "bad-stamp", "not-finite", NULL};
    int at;
    for (at = 0; WORDS[at] && strcmp(WORDS[at], word); at++) continue;
    if (!WORDS[at]) {
        hd_message(HD_ERROR, "hd_lost: '%s' is no word for lost packets; %lu are counted as 'device'", word,
                   (unsigned long)packets);
        word = "device";
    }
    if (!packets) return;
    count(packets, word);
    hd_message(HD_ERROR, "%lu packets %s (%s)", (unsigned long)packets, at < 6 ? "lost" : "changed", word);
}

static int is_round(uint64_t number)
{
    while (number >= 10 && number % 10 == 0) number /= 10;
    return number == 1;
}

/* Tell how many packets hd_offer has not taken since this was told last. */
static void tell_refused(void)
{
    uint64_t refused = hd.refused - hd.refused_told;
    hd.refused_told = hd.refused;
    if (refused) hd_lost(refused, "helper-queue");
}

/* The interface number of a link type: at least 0; -1 refused; -2 not known (yet); -3 the helper shall end. Lock held. */
static int number_of(int dlt, int wait)
{
    double until = hd.linktypes > 1 || !wait ? 0 : monotonic() + NUMBER_S;
    int at;
    for (at = 0; at < hd.linktypes && hd.linktype[at].dlt != dlt; at++) continue;
    if (at == hd.linktypes) {
        if (at == LINKTYPES) return -1;
        hd.linktype[at].dlt = dlt;
        hd.linktype[at].known = 0;
        hd.linktypes++;
        send_register(dlt);
    }
    while (!hd.linktype[at].known) {
        if (!wait) return -2;
        if (hd.stopping || hd.broken) return -3;
        if (until > 0 && monotonic() >= until) return -2;
        wait_changed(until);
    }
    return hd.linktype[at].number;
}

static void describe(char *to, size_t size)
{
    size_t used = 0;
    const struct { const char *word, *unit; double value; } words[] = {
        {"signal", "dBm", hd.radio.dbm}, {"noise", "dBm", hd.radio.noise_dbm}, {"rssi", "", hd.radio.rssi},
        {"noise_rssi", "", hd.radio.noise_rssi}, {"freq", "kHz", (double)hd.radio.khz}, {"rate", "", (double)hd.radio.rate}};
    size_t at;
    *to = '\0';
    for (at = 0; hd.has_radio && at < sizeof words / sizeof *words; at++)
        if (words[at].value < 0 || words[at].value > 0)
            used += (size_t)snprintf(to + used, size - used, "%s%s=%.15g%s", used ? " " : "", words[at].word,
                                     words[at].value, words[at].unit);
    if (hd.has_radio && has(hd.radio.channel))
        used += (size_t)snprintf(to + used, size - used, "%schannel=%.63s", used ? " " : "", hd.radio.channel);
    if (hd.has_position)
        snprintf(to + used, size - used, "%slat=%.15g lon=%.15g alt=%.15gm speed=%.15gkm/h heading=%.15g precision=%.15gm",
                 used ? " " : "", hd.position.latitude, hd.position.longitude, hd.position.altitude, hd.position.speed,
                 hd.position.heading, hd.position.precision);
}

static void put_radio(struct out *out)
{
    put_uint(out, 2);
    pack(out, "zzzzZZs", 1, hd.radio.dbm, 2, hd.radio.noise_dbm, 3, hd.radio.rssi, 4, hd.radio.noise_rssi, 5, hd.radio.khz,
         6, hd.radio.rate, 7, hd.radio.channel);
}

static void put_position(struct out *out, uint64_t ns)
{
    const hd_position *at = &hd.position;
    put_uint(out, 1);
    pack(out, "dddidddUUss", 1, at->latitude, 2, at->longitude, 3, at->altitude, 4, at->fix, 5, at->speed, 6, at->heading, 7,
         at->precision, 8, ns / 1000000000u, 9, ns / 1000u % 1000000u, 10, at->type, 11, at->name);
}

/* The head of a data report up to its packet or JSON block. */
static struct out report_head(unsigned char *data, size_t size, uint64_t ns)
{
    struct out out = frame(data, size, PACKET, 0, 0);
    put_map(&out, 1 + (size_t)!!hd.has_position + (size_t)!!hd.has_radio);
    if (hd.has_position) put_position(&out, ns);
    if (hd.has_radio) put_radio(&out);
    return out;
}

/* A data report of its own: `head` and the content behind it. Lock held; 0, or -1: the helper shall end. */
static int send_report(struct out *head, const void *data, size_t size, int wait)
{
    if (head->full) return -1;
    if (wait && make_room(head->size + size)) return -1;
    seal();
    store(head->data + 8, (uint32_t)(head->size + size - HEADER));
    store(head->data + 16, next_seqno());
    queue(head->data, head->size);
    queue(data, size);
    if (hd.queued >= BATCH || monotonic() - hd.sealed_at > TICK_S) {
        hd.sealed_at = monotonic();
        push();
    } else if (hd.idle) {
        hd.idle = 0;
        wake();
    }
    return 0;
}

static int plain_packet(const unsigned char *data, size_t size, uint32_t original, uint64_t ns, int dlt, int wait)
{
    unsigned char head[768];
    struct out out = report_head(head, sizeof head, ns);
    put_big(&out, 4, 0x85, 1);
    put_uint(&out, 1);
    put_big(&out, 0xCD, (uint64_t)dlt, 2);
    put_uint(&out, 2);
    put_big(&out, ns / 1000000000u > 0xFFFFFFFFu ? 0xCF : 0xCE, ns / 1000000000u, ns / 1000000000u > 0xFFFFFFFFu ? 8 : 4);
    put_uint(&out, 3);
    put_big(&out, 0xCE, ns / 1000u % 1000000u, 4);
    put_uint(&out, 4);
    put_big(&out, 0xCE, original, 4);
    put_uint(&out, 6);
    put_big(&out, 0xC6, size, 4);
    return send_report(&out, data, size, wait);
}

/* Lay a block out where it will stand. `tail` are its options; all of `total` fits. */
static void block(unsigned char *to, uint32_t total, const unsigned char *data, size_t size, uint32_t original, uint64_t ns,
                  const unsigned char *tail, size_t tail_size)
{
    size_t padded = (size + 3) & ~(size_t)3;
    store_little(to, 6);
    store_little(to + 4, total);
    store_little(to + 8, hd.interface);
    store_little(to + 12, (uint32_t)(ns >> 32));
    store_little(to + 16, (uint32_t)ns);
    store_little(to + 20, (uint32_t)size);
    store_little(to + 24, original);
    memcpy(to + 28, data, size);
    memset(to + 28 + size, 0, padded - size);
    memcpy(to + 28 + padded, tail, tail_size);
    store_little(to + total - 4, total);
}

static size_t tail_of(unsigned char *to, size_t room_, const hd_meta *meta)
{
    char text[512];
    size_t size = 0, length;
    if (hd.has_radio || hd.has_position) {
        describe(text, sizeof text);
        length = strlen(text);
        if (length && length + 20 < room_) {
            memset(to, 0, 4 + ((length + 3) & ~(size_t)3));
            to[0] = 1;
            to[2] = (unsigned char)length, to[3] = (unsigned char)(length >> 8);
            memcpy(to + 4, text, length);
            size = 4 + ((length + 3) & ~(size_t)3);
        }
    }
    if (meta && meta->flags) {
        memcpy(to + size, "\2\0\4\0", 4);
        store_little(to + size + 4, meta->flags);
        size += 8;
    }
    if (size) {
        memset(to + size, 0, 4);
        size += 4;
    }
    return size;
}

/* One long packet in a bulk frame of its own, written straight into the ring. */
static int long_block(uint32_t total, const unsigned char *data, size_t size, uint32_t original, uint64_t ns,
                      const unsigned char *tail, size_t tail_size)
{
    unsigned char head[HEADER + 16 + 28], end_[8] = {0};
    size_t pad = (4 - (size & 3)) & 3;
    if (make_room(HEADER + 16 + (size_t)total)) return -1;
    seal();
    frame(head, sizeof head, BULK, 0, next_seqno());
    store(head + 8, 16 + total);
    store_little(head + HEADER, 1);
    store_little(head + HEADER + 4, 1);
    store_little(head + HEADER + 8, total);
    store_little(head + HEADER + 12, 1);
    store_little(head + 36, 6);
    store_little(head + 40, total);
    store_little(head + 44, hd.interface);
    store_little(head + 48, (uint32_t)(ns >> 32));
    store_little(head + 52, (uint32_t)ns);
    store_little(head + 56, (uint32_t)size);
    store_little(head + 60, original);
    queue(head, sizeof head);
    queue(data, size);
    queue(end_, pad);
    queue(tail, tail_size);
    store_little(end_, total);
    queue(end_, 4);
    push();
    return 0;
}

/* Whether a packet can be taken without waiting. */
static int fits(size_t size)
{
    size_t need = size + 1024 > SEALED ? size + 1024 : SEALED;
    return need + RESERVE > hd.capacity ? !hd.queued : room() >= need + RESERVE;
}

/* A packet, cut to what the peer takes. 0, 1: not taken, -1. `wait`: whether it may. */
static int packet(const void *data, size_t captured, const hd_meta *meta, int wait)
{
    unsigned char tail[600];
    size_t tail_size = 0, size = captured, most;
    uint32_t original = meta && meta->original ? meta->original : captured > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)captured;
    uint64_t ns = meta && meta->ns ? meta->ns : realtime_ns();
    int dlt = meta && meta->dlt ? meta->dlt : hd.dlt, number = -2, result = 0;
    uint32_t total = 0;
    if (dlt < 0 || dlt > 0xFFFF) {
        hd_lost(1, "link-type");
        return 1;
    }
    if (hd.bulk && (hd.has_radio || hd.has_position || (meta && meta->flags))) tail_size = tail_of(tail, sizeof tail, meta);
    most = hd.helperd ? MAX_BLOCK - 32 - tail_size : REPORT - 512;
    if (size > most) size = most;
    pthread_mutex_lock(&hd.lock);
    if (!wait && !hd.stopping && !hd.broken && !fits(size)) {
        seal();
        push();
        if (!fits(size)) {
            hd.refused++;
            pthread_mutex_unlock(&hd.lock);
            return 1;
        }
    }
    if (hd.stopping || hd.broken) {
        if (!wait) hd.refused++;
        pthread_mutex_unlock(&hd.lock);
        return -1;
    }
    if (hd.bulk && (number = number_of(dlt, wait)) == -3) result = -1;
    if (result) {
        /* nothing */
    } else if (number == -1) {
        result = 1;
    } else if (number < 0) {
        if (hd.packets) seal();
        result = plain_packet(data, size, original, ns, dlt, wait);
    } else {
        total = (uint32_t)(32 + ((size + 3) & ~(size_t)3) + tail_size);
        if (hd.packets && ((uint32_t)number != hd.interface || hd.batched + total > BATCH || hd.runs == RUNS)) {
            seal();
            hd.sealed_at = monotonic();
            push();
        }
        hd.interface = (uint32_t)number;
        if (total > BATCH) {
            result = long_block(total, data, size, original, ns, tail, tail_size);
        } else if (!hd.packets && wait && make_room(SEALED)) {
            result = -1;
        } else {
            block(hd.batch + hd.batched, total, data, size, original, ns, tail, tail_size);
            if (hd.runs && hd.run_length[hd.runs - 1] == total) {
                hd.run_count[hd.runs - 1]++;
            } else {
                hd.run_length[hd.runs] = total;
                hd.run_count[hd.runs++] = 1;
            }
            hd.batched += total;
            if (!hd.packets++) {
                double now = monotonic();
                if (!hd.queued && now - hd.sealed_at > TICK_S) { /* packets are rare: no reason to wait for more */
                    seal();
                    hd.sealed_at = now;
                    push();
                } else if (hd.idle) {
                    hd.idle = 0;
                    wake();
                }
            }
        }
    }
    if (size < captured && !result) hd.cut++;
    pthread_mutex_unlock(&hd.lock);
    hd.has_radio = 0;
    if (number == -1) hd_lost(1, "link-type");
    if (size < captured && !result) {
        count(1, "cut");
        if (is_round(hd.cut))
            hd_message(HD_ERROR, "%lu packets cut because the peer takes no longer frames: to %lu bytes; the last had %lu",
                       (unsigned long)hd.cut, (unsigned long)size, (unsigned long)captured);
    }
    return result;
}

int hd_packet(const void *data, size_t captured, const hd_meta *meta)
{
    if (hd.refused > hd.refused_told) tell_refused();
    return packet(data, captured, meta, 1);
}

int hd_offer(const void *data, size_t captured, const hd_meta *meta)
{
    int taken;
    if (hd.refused > hd.refused_told) {
        size_t free_;
        pthread_mutex_lock(&hd.lock);
        push();
        free_ = room();
        pthread_mutex_unlock(&hd.lock);
        if (free_ >= SEALED + RESERVE + 2 * (HEADER + TEXT)) tell_refused();
    }
    taken = packet(data, captured, meta, 0);
    return taken;
}

int hd_json(const char *kind, const char *text, uint64_t ns)
{
    unsigned char data[1024];
    struct out out;
    size_t size = strlen(text), most = hd.helperd ? MAX_BLOCK : REPORT - 512;
    int result;
    if (!ns) ns = realtime_ns();
    out = report_head(data, sizeof data, ns);
    hd.has_radio = 0;
    put_uint(&out, 5);
    pack(&out, "sUUz+", 1, kind, 2, ns / 1000000000u, 3, ns / 1000u % 1000000u, 64, hd.helperd ? (int)(ns % 1000) : 0);
    put_uint(&out, 4);
    put_big(&out, 0xDB, size, 4);
    if (size > most || out.full || !has(kind)) {
        hd_lost(1, has(kind) ? "too-long" : "bad-record");
        return 1;
    }
    pthread_mutex_lock(&hd.lock);
    result = send_report(&out, text, size, 1);
    pthread_mutex_unlock(&hd.lock);
    return result;
}

int hd_flush(void)
{
    int result;
    tell_refused();
    pthread_mutex_lock(&hd.lock);
    seal();
    hd.sealed_at = monotonic();
    push();
    result = hd.stopping || hd.broken ? -1 : 0;
    pthread_mutex_unlock(&hd.lock);
    return result;
}

/* The job: one list, probe or open a process */

struct hd_list { struct out *out; size_t count, left_out; };

void hd_list_add(hd_list *devices, const char *interface, const char *flags, const char *hardware)
{
    int plain = interface[strcspn(interface, ":,\"")] == '\0';
    if (devices->out) {
        struct out *out = devices->out, before = *devices->out;
        pack(out, "sss", 1, interface, 2, flags, 3, hardware);
        if (out->full) {
            *out = before;
            devices->left_out++;
            return;
        }
    } else {
        printf("%s%s%s:type=%s%s%s%s%s\n", plain ? "" : "\"", interface, plain ? "" : "\"", hd.helper->type,
               has(flags) ? "," : "", has(flags) ? flags : "", has(hardware) ? "\t" : "", has(hardware) ? hardware : "");
    }
    devices->count++;
}

static const char *version(void)
{
    static char text[128];
    snprintf(text, sizeof text, "%.60s (%s)", has(hd.helper->version) ? hd.helper->version : "1", SDK);
    return text;
}

/* A report that says no; `code` is the header's, `text` the key of the message. */
static void send_refusal(int type, int code, int text)
{
    unsigned char data[HEADER + TEXT + 256];
    struct out out = frame(data, sizeof data, type, code, hd.asked_seqno);
    pack(&out, type == PROBEREPORT ? "iss+" : "isss", 1, hd.asked_seqno, text, hd.refusal.text, PROBLEM, hd.refusal.problem,
         type == OPENREPORT ? 10 : 4, version());
    if (type == PROBEREPORT) {
        put_uint(&out, 2);
        put_map(&out, 0);
    }
    send_now(&out);
}

static void do_list(void)
{
    static unsigned char data[REPORT], items[REPORT - 1024];
    struct out out = frame(data, sizeof data, LISTREPORT, 0, 0), inner = {items, 0, sizeof items, 0};
    hd_list devices = {NULL, 0, 0};
    char text[80] = "";
    devices.out = &inner;
    if (hd.helper->list && hd.helper->list(&devices) < 0) {
        if (!hd_stopping()) send_refusal(LISTREPORT, 1, 3);
        return;
    }
    if (devices.left_out) snprintf(text, sizeof text, "%lu more devices do not fit into the report", (unsigned long)devices.left_out);
    pack(&out, "iss+", 1, hd.asked_seqno, 3, text, 4, version());
    put_uint(&out, 2);
    put_array(&out, devices.count);
    put(&out, items, inner.size);
    send_now(&out);
}

static int probe(hd_device *device)
{
    const char *type = hd_get(&hd.definition, "type");
    if (hd.helper->probe) return hd.helper->probe(&hd.definition, device);
    return type && !strcasecmp(type, hd.helper->type);
}

static void do_probe(void)
{
    static unsigned char data[REPORT];
    struct out out = frame(data, sizeof data, PROBEREPORT, 1, hd.asked_seqno);
    hd_device device;
    int mine;
    memset(&device, 0, sizeof device);
    mine = probe(&device);
    if (mine < 0 || (mine && check_options(&hd.definition))) {
        if (!hd_stopping()) send_refusal(PROBEREPORT, 0, 3);
        return;
    }
    out.data[15] = mine > 0;
    pack(&out, "is+", 1, hd.asked_seqno, 3, device.message);
    put_uint(&out, 2);
    pack(&out, "sssl", 3, device.hardware, 4, device.capture_interface, 5, device.channel, 6, device.channels);
    if (out.full) {
        hd_refuse("no-resources", "what is known of the device does not fit into a report");
        send_refusal(PROBEREPORT, 0, 3);
        return;
    }
    send_now(&out);
}

static void put_plan(struct out *out, int key, const struct plan *plan)
{
    int at;
    put_uint(out, (uint64_t)key);
    pack(out, "dbii+", 1, plan->rate, 2, plan->shuffle, 3, (int)plan->skip, 4, (int)plan->offset);
    put_uint(out, 5);
    put_array(out, (size_t)plan->channels);
    for (at = 0; at < plan->channels; at++) put_text(out, plan->at[at].name);
}

static int make_plan(const struct request *request, const struct plan *before, struct plan *to);
static int try_channel(const char *name, const int64_t *value, int hop);
static void start_tuner(void);

/* Begin as the definition and open want it: a fixed channel, or a hop list. */
static int first_channel(const hd_device *device)
{
    static struct request request;
    const char *wanted = hd_get(&hd.definition, "channel");
    int at;
    if (has(device->channel)) snprintf(hd.channel, sizeof hd.channel, "%s", device->channel);
    else if (has(wanted) && hd.helper->channel_set) {
        if (try_channel(wanted, NULL, 0)) return -1;
    }
    if (!device->hop || !hd.helper->channel_set) return 0;
    for (at = 0; device->hop[at]; at++) {
        if (at == CHANNELS || strlen(device->hop[at]) >= NAME) return hd_refuse("bad-definition", "the hop list is too long");
        snprintf(request.name[at], NAME, "%s", device->hop[at]);
    }
    request.channels = at;
    request.has_rate = device->hop_rate > 0;
    request.rate = device->hop_rate;
    if (make_plan(&request, NULL, &hd.plan)) return -1;
    hd.hopping = 1;
    return 0;
}

static int send_opened(const hd_device *device)
{
    static unsigned char data[REPORT];
    struct out out = frame(data, sizeof data, OPENREPORT, 1, hd.asked_seqno);
    char own[40];
    const char *kinds = device->dlt < 0 ? "isslssss" : "isslssssi";
    pack(&out, hd.hopping ? device->dlt < 0 ? "isslssss+" : "isslssssi+" : kinds, 1, hd.asked_seqno, 3, device->capture_interface, 9, device->message, 4,
         device->channels, 5, hd.channel, 7, device->hardware, 8, uuid_of(&hd.definition, device->uuid, own), 10, version(), 2,
         device->dlt);
    if (hd.hopping) put_plan(&out, 6, &hd.plan);
    if (out.full) return hd_refuse("no-resources", "what is known of the device does not fit into a report");
    return send_now(&out) ? -1 : 0;
}

static void do_open(void)
{
    hd_device device;
    int result;
    memset(&device, 0, sizeof device);
    device.dlt = -1;
    if (check_options(&hd.definition) || hd.helper->open(&hd.definition, &device) < 0 || first_channel(&device)) {
        if (!hd_stopping()) send_refusal(OPENREPORT, 0, 9);
        return;
    }
    hd.dlt = device.dlt;
    pthread_mutex_lock(&hd.lock);
    hd.bulk = hd.helperd;
    if (hd.bulk && hd.dlt >= 0) { /* its number comes unasked */
        hd.linktype[0].dlt = hd.dlt;
        hd.linktypes = 1;
    }
    hd.works = !hd.hopping;
    hd.opened = 1;
    pthread_mutex_unlock(&hd.lock);
    if (send_opened(&device)) {
        if (!hd_stopping()) send_refusal(OPENREPORT, 0, 9);
        return;
    }
    if (has(device.warning)) hd_message(HD_ERROR, "%s", device.warning);
    if (hd.hopping) start_tuner();
    hd.refusal.text[0] = hd.refusal.problem[0] = '\0';
    result = hd.helper->capture();
    tell_refused();
    if (hd_stopping()) return;
    hd_flush();
    if (result < 0) {
        const char *why = has(hd.refusal.text) ? hd.refusal.text : "the capture failed";
        hd_message(HD_ERROR, "%s", why);
        send_error(0, why, hd.refusal.problem);
        finish(1);
        return;
    }
    if (!has(hd.reason)) hd_end("the capture has ended");
    hd_message(HD_INFO, "%s", hd.reason);
    if (hd.helperd) { /* a Kismet server would begin it all again: stay, and answer */
        send_shutdown(hd.reason);
        finish(0);
    }
}

static void *job(void *unused)
{
    int answered = hd.asked != OPENREQ;
    (void)unused;
    pthread_mutex_lock(&hd.lock); /* until hd.job is known */
    pthread_mutex_unlock(&hd.lock);
    if (hd.asked == LISTREQ) do_list();
    else if (hd.asked == PROBEREQ) do_probe();
    else do_open();
    if (hd.asked == OPENREQ && hd.helper->close) hd.helper->close();
    if (answered || !hd.opened) finish(0);
    pthread_mutex_lock(&hd.lock);
    hd.working = 0;
    hd.done = 1;
    wake();
    pthread_mutex_unlock(&hd.lock);
    return NULL;
}

/* A thread with the signals blocked, which are the main thread's. */
static int start_thread(pthread_t *thread, void *(*run)(void *))
{
#ifdef HD_FUZZ
    *thread = pthread_self();
    run(NULL);
    return 0;
#else
    pthread_attr_t attributes;
    sigset_t all, before;
    int result;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(thread, &attributes, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return result;
#endif
}

static void begin_job(int what, uint32_t seqno, const char *text, size_t size)
{
    int result;
    if (hd.asked) {
        send_error(seqno, "this helper is busy; one job per process", "busy");
        return;
    }
    hd.asked = what;
    hd.asked_seqno = seqno;
    if (what != LISTREQ && read_definition(&hd.definition, text, size, !hd.helperd)) {
        send_refusal(what == OPENREQ ? OPENREPORT : PROBEREPORT, 0, what == OPENREQ ? 9 : 3);
        finish(0);
        return;
    }
#ifndef HD_FUZZ
    pthread_mutex_lock(&hd.lock);
#endif
    hd.working = 1;
    result = start_thread(&hd.job, job);
    hd.job_made = !result;
    if (result) hd.working = 0;
#ifndef HD_FUZZ
    pthread_mutex_unlock(&hd.lock);
#endif
    if (result) {
        hd_refuse("no-resources", "cannot start a thread: %s", strerror(result));
        send_refusal(what == OPENREQ ? OPENREPORT : what == PROBEREQ ? PROBEREPORT : LISTREPORT, what == LISTREQ,
                     what == OPENREQ ? 9 : 3);
        finish(1);
    }
}

/* Channels */

static void walk(struct plan *plan)
{
    int stride = plan->shuffle && plan->skip > 1 && plan->skip < (unsigned)plan->channels ? (int)plan->skip : 1;
    int first, at, number = 0;
    for (first = 0; first < stride; first++) /* each channel once a round, whatever the stride */
        for (at = first; at < plan->channels; at += stride) plan->at[number++].order = at;
}

/* A plan as asked; what is not said keeps its value. 0, or -1: refused. */
static int make_plan(const struct request *request, const struct plan *before, struct plan *to)
{
    int at, other;
    to->rate = request->has_rate ? request->rate : before ? before->rate : 5;
    to->shuffle = request->has_shuffle ? request->shuffle : before ? before->shuffle : 0;
    to->skip = request->has_skip ? request->skip : before ? before->skip : 4;
    to->offset = request->has_offset ? request->offset : before ? before->offset : 0;
    to->channels = to->failed = 0;
    for (at = 0; at < request->channels; at++) {
        for (other = 0; other < to->channels && strcmp(to->at[other].name, request->name[at]); other++) continue;
        if (other < to->channels) continue;
        memcpy(to->at[other].name, request->name[at], NAME);
        to->at[other].value = 0;
        to->at[other].bad = 0;
        if (hd.helper->channel_parse && hd.helper->channel_parse(to->at[other].name, &to->at[other].value) < 0) to->at[other].bad = 2;
        to->channels++;
    }
    if (!to->channels) return hd_refuse("bad-definition", "a hop list needs at least one channel");
    if (!(to->rate >= 0 && to->rate < 1e9)) return hd_refuse("bad-definition", "a hop rate is 0 or more hops per second");
    walk(to);
    to->place = (int)(to->offset % (unsigned)to->channels);
    return 0;
}

/* Tune; -1: it could not, and own_failure() says why. */
static int try_channel(const char *name, const int64_t *value, int hop)
{
    int64_t own = 0;
    struct failure *failure = own_failure();
    snprintf(failure->text, sizeof failure->text, "it cannot");
    failure->problem[0] = '\0';
    if (strlen(name) >= NAME) return hd_refuse("not-supported", "the name of a channel has %d bytes at most", NAME - 1);
    if (!value) {
        if (hd.helper->channel_parse && hd.helper->channel_parse(name, &own) < 0) return -1;
        value = &own;
    }
    if ((hop && hd.helper->hop ? hd.helper->hop : hd.helper->channel_set)(name, *value) < 0) return -1;
    snprintf(hd.channel, sizeof hd.channel, "%s", name);
    return 0;
}

/* A configure report: a plan, a channel, or a refusal. */
static void send_configured(uint32_t seqno, const struct plan *plan, const char *channel, const char *text, const char *problem)
{
    static unsigned char data[REPORT * 5];
    int good = plan || channel;
    struct out out = frame(data, hd.helperd ? sizeof data : REPORT, CONFIGREPORT, good, seqno);
    pack(&out, plan ? "isss+" : "isss", 1, seqno, 2, channel, 4, text, PROBLEM, problem);
    if (plan) put_plan(&out, 3, plan);
    if (out.full && plan) send_configured(seqno, NULL, NULL, "the hop list does not fit into a report", "no-resources");
    else send_now(&out);
}

static void copy_plan(struct plan *to, const struct plan *from)
{
    memcpy(to, from, offsetof(struct plan, at) + (size_t)from->channels * sizeof *from->at);
}

static void answer(const struct request *request)
{
    static struct plan wanted;
    if (request->hops) {
        if (make_plan(request, hd.hopping ? &hd.plan : NULL, &wanted)) {
            send_configured(request->seqno, NULL, NULL, hd.tune_refusal.text, hd.tune_refusal.problem);
            return;
        }
        if (hd.works) {
            hd.has_before = hd.hopping ? 1 : *hd.channel ? 2 : 0;
            copy_plan(&hd.before, &hd.plan);
            memcpy(hd.before_channel, hd.channel, NAME);
        }
        hd.works = 0;
        copy_plan(&hd.plan, &wanted);
        hd.hopping = wanted.rate > 0;
        send_configured(request->seqno, &hd.plan, NULL, NULL, NULL);
        return;
    }
    if (try_channel(request->name[0], NULL, 0)) {
        char text[TEXT];
        snprintf(text, sizeof text, "cannot tune to channel %.63s: %.900s", request->name[0], hd.tune_refusal.text);
        send_configured(request->seqno, NULL, NULL, text, hd.tune_refusal.problem);
        return;
    }
    hd.hopping = 0;
    hd.works = 1;
    send_configured(request->seqno, NULL, request->name[0], NULL, NULL);
}

/* Nothing of a list could be tuned: go back to what it did before it was asked to, or end. */
static void give_up(void)
{
    char text[TEXT];
    int before = hd.has_before;
    snprintf(text, sizeof text, "none of the channels can be tuned, the last because: %.900s", hd.plan.why.text);
    hd.hopping = hd.has_before = 0;
    if (before == 1) {
        copy_plan(&hd.plan, &hd.before);
        hd.hopping = hd.works = 1;
        strcat(text, "; hops as before");
        send_configured(0, &hd.plan, NULL, text, NULL);
    } else if (before == 2 && !try_channel(hd.before_channel, NULL, 0)) {
        hd.works = 1;
        strcat(text, "; back as before");
        send_configured(0, NULL, hd.before_channel, text, NULL);
    } else if (before == 2) {
        hd_message(HD_ERROR, "%s; it stays where it is", text);
    } else {
        hd_message(HD_ERROR, "%s", text);
        send_error(0, text, hd.plan.why.problem);
        pthread_mutex_lock(&hd.lock);
        end(text, 1, 0);
        pthread_mutex_unlock(&hd.lock);
    }
}

static void hop_once(void)
{
    struct plan *plan = &hd.plan;
    int at = plan->at[plan->place].order, kept = 0, removed;
    char text[TEXT];
    plan->place = (plan->place + 1) % plan->channels;
    if (plan->at[at].bad == 2) hd_refuse("", "it is no channel of this device");
    if (plan->at[at].bad == 2 || try_channel(plan->at[at].name, &plan->at[at].value, 1)) {
        if (!plan->at[at].bad || plan->at[at].bad == 2) plan->failed++;
        plan->at[at].bad = 1;
        snprintf(plan->why.text, sizeof plan->why.text, "%.63s: %.900s", plan->at[at].name, hd.tune_refusal.text);
        memcpy(plan->why.problem, hd.tune_refusal.problem, sizeof plan->why.problem);
    } else {
        if (plan->at[at].bad) plan->failed--;
        plan->at[at].bad = 0;
        hd.works = 1;
    }
    if (plan->place || !plan->failed) return;
    for (at = 0; at < plan->channels; at++) {
        if (plan->at[at].bad == 1) continue;
        if (kept != at) {
            plan->at[kept] = plan->at[at];
        }
        kept++;
    }
    removed = plan->channels - kept;
    plan->channels = kept;
    plan->failed = 0;
    if (!kept) {
        give_up();
        return;
    }
    walk(plan);
    snprintf(text, sizeof text, "removed %d channels from the hop list: %.900s", removed, plan->why.text);
    send_configured(0, plan, NULL, text, NULL);
}

/* Hops are due at fixed times from the request on: who was held up catches up, so that radios that share a list keep their
 * distance. */
static void *tune(void *unused)
{
    double due = monotonic(), free_at = due, interval, at;
    (void)unused;
    pthread_mutex_lock(&hd.lock);
    while (!hd.stopping) {
        at = due > free_at ? due : free_at;
        if (hd.requests) {
            pthread_mutex_unlock(&hd.lock);
            answer(&hd.request[hd.first]);
            due = free_at = monotonic();
            pthread_mutex_lock(&hd.lock);
            hd.first = (hd.first + 1) % REQUESTS;
            hd.requests--;
        } else if (hd.hopping && monotonic() >= at) {
            pthread_mutex_unlock(&hd.lock);
            hop_once();
            interval = hd.plan.rate * SHORTEST_S < 1 ? 1 / hd.plan.rate : SHORTEST_S;
            due += interval;
            at = monotonic() - due;
            if (hd.plan.channels && at > interval * hd.plan.channels) /* too late to catch up: be late by whole rounds */
                due += (double)(int64_t)(at / (interval * hd.plan.channels)) * interval * hd.plan.channels;
            free_at = monotonic() + SHORTEST_S;
            pthread_mutex_lock(&hd.lock);
        } else {
#ifdef HD_FUZZ
            break;
#endif
            wait_changed(hd.hopping ? at : 0);
        }
    }
    pthread_mutex_unlock(&hd.lock);
    return NULL;
}

static void start_tuner(void)
{
#ifdef HD_FUZZ
    hd.tuning = 1;
    hd.tuner = pthread_self();
    tune(NULL);
    hd.tuning = 0;
#else
    pthread_mutex_lock(&hd.lock);
    if (!hd.tuning && !start_thread(&hd.tuner, tune)) hd.tuning = 1;
    pthread_cond_broadcast(&hd.changed);
    pthread_mutex_unlock(&hd.lock);
#endif
}

/* A CONFIGREQ: exactly one of a channel and a hop list. 0, or -1: it is none. */
static int configure(uint32_t seqno, struct in map)
{
    struct in hop, list;
    struct request *to;
    uint64_t value, number;
    double real;
    const char *text = NULL, *why = NULL;
    int channel = find_kind(map, 1, 's', &value, &real, &text), hops = find(map, 2, &hop), found;
    if (channel < 0 || hops < 0 || channel + hops != 1) return -1;
    pthread_mutex_lock(&hd.lock);
    to = &hd.request[(hd.first + hd.requests) % REQUESTS];
    if (!hd.helper->channel_set) why = "it has no channels";
    else if (!hd.opened) why = "nothing is open yet";
    else if (hd.requests == REQUESTS) why = "too many orders to tune are waiting";
    if (!why) {
        memset(to, 0, offsetof(struct request, name));
        to->seqno = seqno;
        to->hops = hops;
    }
    if (!why && channel) {
        if (value >= NAME || !value || memchr(text, 0, value)) why = "that is no name of a channel";
        else {
            memcpy(to->name[0], text, value);
            to->name[0][value] = '\0';
        }
    }
    if (hops) {
        int failed = 0;
        const struct { uint64_t key; char kind; } keys[] = {{1, 'f'}, {2, 'b'}, {3, 'u'}, {4, 'u'}};
        double rate = 0;
        uint64_t got[5] = {0};
        int said[5] = {0}, at;
        for (at = 0; at < 4; at++) {
            found = find_kind(hop, keys[at].key, keys[at].kind, &got[at], &real, &text);
            if (found < 0 || (found && keys[at].kind == 'u' && got[at] > 0xFFFFFFFFu)) failed = 1;
            if (found > 0 && at == 0) rate = real;
            said[at] = found > 0;
        }
        found = failed ? -1 : find(hop, 5, &list);
        if (found > 0 && take_kind(&list, 'a', &number, &real, &text)) found = -1;
        for (at = 0; found > 0 && number > 0; number--, at++) {
            if (take_kind(&list, 's', &value, &real, &text)) found = -1;
            else if (why || at == CHANNELS || value >= NAME || memchr(text, 0, value))
                why = why ? why : "the list has too many channels, or one of too long a name";
            else {
                memcpy(to->name[at], text, value);
                to->name[at][value] = '\0';
            }
        }
        if (found < 0) {
            pthread_mutex_unlock(&hd.lock);
            return -1;
        }
        if (!why) {
            to->channels = found ? at : 0;
            to->has_rate = said[0], to->rate = rate;
            to->has_shuffle = said[1], to->shuffle = (int)got[1];
            to->has_skip = said[2], to->skip = (unsigned)got[2];
            to->has_offset = said[3], to->offset = (unsigned)got[3];
        }
    }
    if (!why) hd.requests++;
    pthread_mutex_unlock(&hd.lock);
    if (why) {
        char told[TEXT];
        snprintf(told, sizeof told, "%s cannot tune: %s", hd.helper->type, why);
        send_configured(seqno, NULL, NULL, told, "not-supported");
    } else {
        start_tuner();
    }
    return 0;
}

/* Listening */

/* A REGISTER: helperd accepts the extension, or numbers a link type. Lock held. */
static int registered(struct in map)
{
    uint64_t size, dlt, number;
    double real;
    const char *text;
    int typed, numbered, at;
    if (find_kind(map, 1, 's', &size, &real, &text) < 1) return -1;
    typed = find_kind(map, 65, 'u', &dlt, &real, NULL);
    numbered = find_kind(map, 64, 'u', &number, &real, NULL);
    if (typed < 0 || numbered < 0) return -1;
    if (size != sizeof SUBSYSTEM - 1 || memcmp(text, SUBSYSTEM, size)) return 0;
    hd.helperd = 1;
    if (typed && dlt <= 0xFFFF) {
        for (at = 0; at < hd.linktypes && hd.linktype[at].dlt != (int)dlt; at++) continue;
        if (at < hd.linktypes && !hd.linktype[at].known) {
            hd.linktype[at].number = numbered && number <= 0x7FFFFFFF ? (int)number : -1;
            hd.linktype[at].known = 1;
        }
    }
    pthread_cond_broadcast(&hd.changed);
    return 0;
}

static void pong(uint32_t seqno)
{
    unsigned char data[HEADER];
    struct out out = frame(data, sizeof data, PONG, 0, seqno);
    pthread_mutex_lock(&hd.lock);
    hd.ping_at = monotonic();
    seal();
    queue(data, sizeof data);
    if (!hd.offered) { /* in the same write: what only helperd understands */
        hd.offered = 1;
        send_register(-1);
    }
    push();
    (void)out;
    pthread_mutex_unlock(&hd.lock);
}

/* One frame. 0, or what is wrong with it. */
static const char *handle(int type, uint32_t seqno, const unsigned char *payload, size_t size)
{
    struct in map = {NULL, NULL, 0};
    uint64_t length;
    double real;
    const char *text;
    int wrong = 0;
    map.at = payload;
    map.end = payload + size;
    switch (type) {
    case PING: pong(seqno); break;
    case LISTREQ: begin_job(LISTREQ, seqno, NULL, 0); break;
    case PROBEREQ: case OPENREQ:
        if (find_kind(map, 1, 's', &length, &real, &text) < 1) return "the payload is no request";
        begin_job(type, seqno, text, length);
        break;
    case CONFIGREQ: wrong = configure(seqno, map); break;
    case REGISTER:
        pthread_mutex_lock(&hd.lock);
        wrong = registered(map);
        pthread_mutex_unlock(&hd.lock);
        break;
    case SHUTDOWN:
        if (find(map, 1, &map) < 0) return "the payload is no map";
        pthread_mutex_lock(&hd.lock);
        end("the server says it is over", 0, 0);
        pthread_mutex_unlock(&hd.lock);
        break;
    default: break; /* what we do not know is not for us */
    }
    return wrong ? "the payload is not what its type demands" : NULL;
}

/* The frames among what was read, as long as there is room to answer. NULL, or why the channel ends. */
static const char *frames(void)
{
    static char problem[160];
    size_t at = 0;
    const char *why = NULL;
    while (!why && hd.buffered - at >= 12 && hd.listening) {
        const unsigned char *data = hd.input + at;
        uint32_t word = load(data + 4), size = load(data + 8), head;
        size_t free_;
        pthread_mutex_lock(&hd.lock);
        free_ = room();
        pthread_mutex_unlock(&hd.lock);
        if (free_ < RESERVE) break;
        head = word == 0xABCD0002 ? 48 : HEADER;
        if (load(data) != 0xDECAFBAD) why = "bad-signature: a frame does not start with DE CA FB AD";
        else if (word >> 16 == 0xA9A9 && word != 0xA9A90003) why = "bad-version: v3 frames have version 3";
        else if (word != 0xA9A90003 && head != 48) why = "wrong-generation: this helper speaks v3 only";
        else if (size > INPUT - head) why = "frame-too-long: 65536 bytes at most";
        else if (hd.buffered - at < head + size) break;
        else if (head == 48) {
            if (strncasecmp((const char *)data + 12, "PING", 5)) why = "wrong-generation: of v2, only PING is answered";
            else pong(load(data + 44));
        } else {
            why = handle((int)(data[12] << 8 | data[13]), load(data + 16), data + HEADER, size);
            if (why) {
                snprintf(problem, sizeof problem, "bad-payload: v3 type %d: %s", data[12] << 8 | data[13], why);
                why = problem;
            }
        }
        if (!why) at += head + size;
    }
    memmove(hd.input, hd.input + at, hd.buffered - at);
    hd.buffered -= at;
    return why;
}

static void over_wrong(const char *why)
{
    if (!why) return;
    hd.listening = 0;
    fprintf(stderr, "%s: %s\n", hd.helper->type, why);
    pthread_mutex_lock(&hd.lock);
    end(why, 1, 0);
    pthread_mutex_unlock(&hd.lock);
}

static void listen_(void)
{
    ssize_t got = read(hd.in_fd, hd.input + hd.buffered, sizeof hd.input - hd.buffered);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got <= 0) {
        if (got < 0) fprintf(stderr, "%s: cannot read from the server: %s\n", hd.helper->type, strerror(errno));
        hd.listening = 0;
        pthread_mutex_lock(&hd.lock);
        end("the server closed our input", 0, 0);
        pthread_mutex_unlock(&hd.lock);
        return;
    }
    hd.buffered += (size_t)got;
    over_wrong(frames());
}

/* The main loop */

static void on_signal(int number)
{
    int before = errno;
    ssize_t ignored;
    signalled = number;
    if (wake_fd >= 0) {
        ignored = write(wake_fd, "w", 1);
        (void)ignored;
    }
    errno = before;
}

static void set_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

/* Whether nothing is left to do. */
static int over(void)
{
    double rest;
    int result = 0;
    char farewell[TEXT];
    pthread_mutex_lock(&hd.lock);
    rest = hd.end_by > 0 ? hd.end_by - monotonic() : 60;
    if (hd.ending && !(hd.working && rest > GRACE_S)) {
        seal();
        memcpy(farewell, hd.farewell, sizeof farewell);
        hd.farewell[0] = '\0';
        if (*farewell && hd.offered) {
            pthread_mutex_unlock(&hd.lock);
            send_shutdown(farewell);
            pthread_mutex_lock(&hd.lock);
        }
        drain();
        result = hd.broken || rest <= 0 || !hd.queued;
    }
    pthread_mutex_unlock(&hd.lock);
    return result;
}

static int timeout_ms(void) /* lock held */
{
    double now = monotonic(), until = now + 60;
    if (!hd.helperd && hd.ping_at + WATCHDOG_S < until) until = hd.ping_at + WATCHDOG_S;
    if (hd.end_by > 0) until = hd.working && now < hd.end_by - GRACE_S ? hd.end_by - GRACE_S : hd.end_by;
    if (hd.packets && !hd.queued && now + TICK_S < until) until = now + TICK_S;
    return until <= now ? 0 : (int)((until - now) * 1000) + 1;
}

static void turn(void)
{
    struct pollfd on[3];
    int wait_ms, count_ = 2, flush;
    char dust[256];
    pthread_mutex_lock(&hd.lock);
    on[0].fd = hd.wake[0], on[0].events = POLLIN;
    hd.polls_out = hd.queued > 0;
    on[1].fd = hd.out_fd, on[1].events = hd.polls_out ? POLLOUT : 0;
    if (hd.listening && room() >= RESERVE) {
        on[2].fd = hd.in_fd, on[2].events = POLLIN;
        count_ = 3;
    }
    hd.idle = !hd.packets && !hd.queued;
    flush = hd.packets && !hd.queued;
    wait_ms = timeout_ms();
    pthread_mutex_unlock(&hd.lock);
    on[0].revents = on[1].revents = on[2].revents = 0;
    poll(on, (nfds_t)count_, wait_ms);
    if (on[0].revents & POLLIN && read(hd.wake[0], dust, sizeof dust) < 0 && errno != EAGAIN) hd.broken = 1;
    pthread_mutex_lock(&hd.lock);
    hd.polls_out = 0;
    if (on[1].revents & (POLLERR | (hd.in_fd == hd.out_fd ? 0 : POLLHUP))) hd.broken = 1;
    if (flush && hd.packets && !hd.queued) {
        seal();
        hd.sealed_at = monotonic();
    }
    drain();
    if (signalled) {
        char why[64];
        snprintf(why, sizeof why, "asked to end by %s", signalled == SIGINT ? "SIGINT" : "SIGTERM");
        end(why, 0, 1);
    }
    if (hd.broken) end("the reader of our output is gone", 0, 0);
    else if (!hd.helperd && !hd.end_by && monotonic() - hd.ping_at > WATCHDOG_S) end("no PING for 15 s", 0, 1);
    pthread_mutex_unlock(&hd.lock);
    if (count_ == 3 && on[2].revents) listen_();
    else if (hd.buffered && hd.listening) over_wrong(frames());
}

static int start(void)
{
    pthread_condattr_t attributes;
    hd.allocated = hd.helper->ring > LEAST_RING ? hd.helper->ring : LEAST_RING;
    hd.capacity = hd.helper->ring > LEAST_RING ? hd.allocated : SMALL_RING;
    hd.ring = malloc(hd.allocated);
    if (!hd.ring || pipe(hd.wake) || pipe(hd.stop)) {
        fprintf(stderr, "%s: cannot start: %s\n", hd.helper->type, strerror(errno));
        return -1;
    }
    fcntl(hd.wake[0], F_SETFL, O_NONBLOCK);
    fcntl(hd.wake[1], F_SETFL, O_NONBLOCK);
    fcntl(hd.stop[1], F_SETFL, O_NONBLOCK);
    fcntl(hd.out_fd, F_SETFL, fcntl(hd.out_fd, F_GETFL) | O_NONBLOCK);
    fcntl(hd.in_fd, F_SETFL, fcntl(hd.in_fd, F_GETFL) | O_NONBLOCK);
    wake_fd = hd.wake[1];
    pthread_mutex_init(&hd.lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&hd.changed, &attributes);
    hd.listening = 1;
    hd.ping_at = monotonic();
    return 0;
}

static int serve(void)
{
    int working;
    while (!over()) turn();
    pthread_mutex_lock(&hd.lock);
    hd.stopping = 1;
    pthread_cond_broadcast(&hd.changed);
    working = hd.working;
    pthread_mutex_unlock(&hd.lock);
    if (working || hd.tuning) { /* a thread still waits for its device; nobody waits for it */
        if (!working) fflush(NULL);
        _exit(hd.status);
    }
    if (hd.job_made) pthread_join(hd.job, NULL);
    return hd.status;
}

/* The command line */

static const char *const REMOTE_ONLY[] = {"--ssl", "--ssl-certificate", "--user", "--password", "--apikey", "--endpoint",
                                          "--autodetect", "--daemonize", NULL};

struct words { const char *connect, *source, *gps, *gps_name; int list, retry, in_fd, out_fd; };

static int usage(const char *format, ...)
{
    va_list words;
    fprintf(stderr, "%s: ", hd.helper->type);
    va_start(words, format);
    vfprintf(stderr, format, words);
    va_end(words);
    fputc('\n', stderr);
    return USAGE;
}

static void help(void)
{
    const hd_option *option = hd.helper->options;
    printf("%s: %s\n\nStarted by helperd or a Kismet server: --in-fd=N --out-fd=N\n\n"
           "  --in-fd=N    descriptor to read the server's frames from\n"
           "  --out-fd=N   descriptor to write frames to\n"
           "  --list       print the devices, one a line; status 1 when there is none\n"
           "  --version    print the version\n"
           "  --help       print this\n\n"
           "Remote capture, by plain TCP: --connect=HOST:PORT --source=DEFINITION\n\n"
           "  --connect=HOST:PORT    the server to dial, again every 5 s (also: --host)\n"
           "  --source=DEFINITION    what to capture from\n"
           "  --disable-retry        dial once\n"
           "  --fixed-gps=LAT,LON[,ALT]   where this sensor stands, in degrees and metres\n"
           "  --gps-name=NAME        what this place is called\n"
           "  --tcp                  understood, and always so\n",
           hd.helper->type, has(hd.helper->summary) ? hd.helper->summary : "a capture helper");
    if (option && option->name) printf("\nOptions of a definition:\n\n");
    for (; option && option->name; option++) printf("  %-12s  %s\n", option->name, option->meaning);
}

static int descriptor(const char *name, const char *value, int *to)
{
    struct stat found;
    char *after;
    long number;
    errno = 0;
    number = strtol(value, &after, 10);
    if (after == value || *after || number < 0 || number > 1 << 20 || errno)
        return usage("%s takes the number of a file descriptor, not '%s'", name, value);
    if (fstat((int)number, &found)) return usage("%s=%s: %s", name, value, strerror(errno));
    *to = (int)number;
    return 0;
}

/* 0: go on; else the exit status. *action: 0 serve, 'l'ist, 'h'elp, 'v'ersion. */
static int parse(int argc, char **argv, struct words *to, int *action)
{
    int at, other, status;
    for (at = 1; at < argc; at++) {
        char name[32];
        const char *word = argv[at], *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
        const char **text = NULL;
        int *fd = NULL;
        snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - word) : 31, word);
        if (!strcmp(word, "--")) continue;
        if (!strcmp(name, "--in-fd")) fd = &to->in_fd;
        else if (!strcmp(name, "--out-fd")) fd = &to->out_fd;
        else if (!strcmp(name, "--connect") || !strcmp(name, "--host")) text = &to->connect;
        else if (!strcmp(name, "--source")) text = &to->source;
        else if (!strcmp(name, "--fixed-gps")) text = &to->gps;
        else if (!strcmp(name, "--gps-name")) text = &to->gps_name;
        if (fd || text) {
            if (!value && at + 1 < argc) value = argv[++at];
            if (!has(value)) return usage("%s needs a value; try --help", name);
            if (text) *text = value;
            else if ((status = descriptor(name, value, fd)) != 0) return status;
        } else if (!strcmp(word, "--list")) *action = 'l';
        else if (!strcmp(word, "--help")) *action = 'h';
        else if (!strcmp(word, "--version")) *action = 'v';
        else if (!strcmp(word, "--disable-retry")) to->retry = 0;
        else if (strcmp(word, "--tcp")) {
            for (other = 0; REMOTE_ONLY[other]; other++)
                if (!strcmp(REMOTE_ONLY[other], name))
                    return usage("%s: this helper dials by plain TCP only; let helperd dial (an uplink), or a tunnel: "
                                 "ssh -N -L 3501:127.0.0.1:3501 SERVER, and --connect=127.0.0.1:3501", name);
            return usage("unknown option '%s'; try --help", word);
        }
    }
    if (*action) return 0;
    if (to->connect) return has(to->source) ? 0 : usage("--connect needs --source=DEFINITION: what to capture from");
    if (to->in_fd < 0 || to->out_fd < 0)
        return usage("--in-fd and --out-fd must be given: helperd or a Kismet server starts a helper; try --help");
    return 0;
}

/* Remote capture */

static int fixed_gps(const struct words *words)
{
    int fields, used = 0;
    if (!words->gps) return 0;
    fields = sscanf(words->gps, "%lf,%lf%n,%lf%n", &hd.position.latitude, &hd.position.longitude, &used,
                    &hd.position.altitude, &used);
    if (fields < 2 || words->gps[used] || !(hd.position.latitude >= -90 && hd.position.latitude <= 90 && hd.position.longitude >= -180 && hd.position.longitude <= 180))
        return usage("--fixed-gps=%s: write latitude,longitude or latitude,longitude,altitude in degrees and metres", words->gps);
    hd.position.fix = fields == 3 ? 3 : 2;
    hd.position.type = "remote-fixed";
    hd.position.name = has(words->gps_name) ? words->gps_name : "remote-fixed";
    hd.has_position = 1;
    return 0;
}

static int dial(const char *to)
{
    char host[256], why[128] = "";
    const char *colon = strrchr(to, ':');
    struct addrinfo hints, *found = NULL, *one;
    int fd = -1, on = 1, result;
    if (!colon || colon == to || !colon[1] || (size_t)(colon - to) >= sizeof host)
        return usage("--connect=%s: write HOST:PORT, such as 10.8.0.1:3501 or [fd00::1]:3501", to), -2;
    snprintf(host, sizeof host, "%.*s", (int)(colon - to), to);
    if (*host == '[' && host[strlen(host) - 1] == ']') {
        host[strlen(host) - 1] = '\0';
        memmove(host, host + 1, strlen(host));
    }
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    if ((result = getaddrinfo(host, colon + 1, &hints, &found)) != 0) {
        fprintf(stderr, "%s: %s: %s\n", hd.helper->type, to, gai_strerror(result));
        return -1;
    }
    for (one = found; one && fd < 0 && !signalled; one = one->ai_next) {
        struct pollfd on_;
        socklen_t size = sizeof result;
        fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (fd < 0) continue;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        result = connect(fd, one->ai_addr, one->ai_addrlen) ? errno : 0;
        on_.fd = fd, on_.events = POLLOUT;
        if (result == EINPROGRESS)
            result = poll(&on_, 1, (int)(CONNECT_S * 1000)) < 1 ? ETIMEDOUT
                     : getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &size) ? errno : result;
        if (result) {
            snprintf(why, sizeof why, "%s", strerror(result));
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd < 0) {
        if (!signalled) fprintf(stderr, "%s: cannot reach %s: %s\n", hd.helper->type, to, why);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

/* Dial, say what we are, and be a helper on that connection. */
static int remote(const struct words *words)
{
    static unsigned char data[HEADER + 9000];
    struct out out = frame(data, sizeof data, NEWSOURCE, 0, 0);
    hd_device device;
    char own[40];
    int mine = -1;
    memset(&device, 0, sizeof device);
    if (read_definition(&hd.definition, words->source, strlen(words->source), 0) == 0) mine = probe(&device);
    if (mine < 1) {
        fprintf(stderr, "%s: --source=%s: %s\n", hd.helper->type, words->source,
                mine < 0 ? hd.refusal.text : "not for this helper; does it have the right type=?");
        return 1;
    }
    pack(&out, "sss", 1, words->source, 2, hd.helper->type, 3, uuid_of(&hd.definition, device.uuid, own));
    hd.in_fd = hd.out_fd = dial(words->connect);
    if (hd.in_fd < 0) return hd.in_fd == -2 ? USAGE : UNAVAILABLE;
    hd.remote = 1;
    if (start()) return 1;
    pthread_mutex_lock(&hd.lock);
    send_frame(&out);
    pthread_mutex_unlock(&hd.lock);
    return serve();
}

/* A process for each connection, so that each begins with nothing left of the one before. */
static int remote_again(const struct words *words)
{
    for (;;) {
        double until;
        int status = 0;
        pid_t worker = fork(), done = -1;
        if (worker == 0) {
#ifdef __linux__
            prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
            status = remote(words);
            fflush(NULL);
            _exit(status);
        }
        if (worker < 0) return usage("cannot start a process: %s", strerror(errno)), 1;
        while ((done = waitpid(worker, &status, 0)) < 0 && errno == EINTR)
            if (signalled) kill(worker, SIGTERM);
        if (signalled) return 0;
        if (done == worker && WIFEXITED(status) && WEXITSTATUS(status) == USAGE) return USAGE;
        fprintf(stderr, "%s: dials again in %g s\n", hd.helper->type, RETRY_S);
        for (until = monotonic() + RETRY_S; !signalled && monotonic() < until;) {
            struct timespec rest = {0, 100000000};
            nanosleep(&rest, NULL);
        }
        if (signalled) return 0;
    }
}

int hd_run(int argc, char **argv, const hd_helper *helper)
{
    struct words words = {NULL, NULL, NULL, NULL, 0, 1, -1, -1};
    hd_list devices = {NULL, 0, 0};
    int action = 0, status;
    hd.helper = helper;
    hd.in_fd = hd.out_fd = hd.stop[0] = -1;
    hd.dlt = -1;
    if (!helper->type || !helper->open || !helper->capture) {
        fprintf(stderr, "helper: a table needs type, open and capture\n");
        return USAGE;
    }
    status = parse(argc, argv, &words, &action);
    if (status) return status;
    if (action == 'h') help();
    else if (action == 'v') printf("%s %s\n", helper->type, version());
    else if (action == 'l') {
        if (helper->list && helper->list(&devices) < 0) {
            fprintf(stderr, "%s: %s\n", helper->type, hd.refusal.text);
            return 1;
        }
        return devices.count ? 0 : 1;
    }
    if (action) return 0;
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    prctl(PR_SET_DUMPABLE, 0); /* its memory, where packets are, is nobody else's, whoever has its uid */
#endif
    set_signals();
    status = fixed_gps(&words);
    if (status) return status;
    if (words.connect) return words.retry ? remote_again(&words) : remote(&words);
    hd.in_fd = words.in_fd;
    hd.out_fd = words.out_fd;
    fcntl(hd.in_fd, F_SETFD, FD_CLOEXEC);
    fcntl(hd.out_fd, F_SETFD, FD_CLOEXEC);
    return start() ? 1 : serve();
}
