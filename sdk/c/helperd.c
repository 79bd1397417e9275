/* SPDX-License-Identifier: Apache-2.0
 *
 * The capture framework behind helperd.h: protocol v3 of Kismet's helpers, helper side, and helperd's bulk
 * extension.
 *
 *     capture thread: hd_packet --> batch --> ring --> the server
 *     channel thread: channel_set, hop
 *     main thread:    requests, PING, and what the ring still holds
 *
 * Rules:
 *   1. One lock guards batch, ring and every decision to end. Nobody waits or calls authors with it.
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
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define SDK "helperd C SDK 1"
#define SUBSYSTEM "helperd-bulk/2"
#define LENGTH(array) (sizeof(array) / sizeof *(array))

enum { /* types of frames; the report that answers a request has the next number */
    PING = 2, PONG = 3, SHUTDOWN = 4, MESSAGE = 5, ERROR = 6, PROBEREQ = 10, OPENREQ = 12, LISTREQ = 14,
    PACKET = 16, CONFIGREQ = 17, CONFIGREPORT = 18, NEWSOURCE = 19,
    REGISTER = 1, BULK = 0x4844, COUNT = 0x4845
};
enum {
    HEADER = 20, HEADER_V2 = 48,
    REPORT = 16383,                  /* bytes of a frame that a Kismet server of 2025 still takes */
    LONG_REPORT = 5 * REPORT,        /* and that helperd does */
    INPUT = 65536,                   /* bytes of a frame that we take */
    MAX_BLOCK = 262144,              /* what dumpcap takes of a pipe */
    BATCH = 32 << 10,                /* bytes of blocks in a bulk frame, unless one packet is longer */
    RUNS = 512,                      /* entries of its index */
    RING = 320 << 10, SMALL_RING = 112 << 10, /* small until a packet comes that needs more: fewer pages */
    RESERVE = 20 << 10,              /* of the ring, for answers */
    OPTIONS_ROOM = 600,              /* bytes of a block's options */
    AROUND = 1536,                   /* bytes around a packet: headers, radio, position, index */
    TEXT = 1024,                     /* of a message */
    OPTIONS = 128, CHANNELS = 1024, NAME = 64, ORDERS = 8,
    USAGE = 64, UNAVAILABLE = 69,
    PROBLEM = 64                     /* key of the problem word in a report that says no */
};
enum { WATCHDOG_S = 15, NUMBER_S = 2, RETRY_S = 5, CONNECT_S = 10 };
static const double STOP_GRACE_S = 0.5, GRACE_S = 0.5, TICK_S = 0.002, SHORTEST_HOP_S = 0.05;

struct hd_definition {
    char text[8192];
    const char *interface;
    int options, loose; /* loose: a Kismet server has made it; what is odd is told, not refused */
    struct { const char *key; char *value; } option[OPTIONS];
};

struct failure { char problem[32], text[TEXT]; };

enum { RATE, SHUFFLE, SKIP, OFFSET, SETTINGS };

/* A hop list and how to walk it, or one channel to stay on (fixed); none: no channels. An order of the
 * server, too: then `said` has a bit for each setting that it names. What is behind `channels` is not
 * touched, nor copied. */
struct plan {
    uint32_t request, said;
    int fixed, channels, place;
    double setting[SETTINGS];
    struct failure why;              /* the last channel that could not be tuned */
    struct channel { int64_t value; int order, unknown, failed; char name[NAME]; } at[CHANNELS];
};

static struct {
    const hd_helper *helper;
    int in_fd, out_fd, wake[2], stop[2];
    pthread_mutex_t lock;
    pthread_cond_t changed;          /* room in the ring, an order to tune, the end */
    pthread_t main, job, tuner;
    pthread_key_t own_failure;

    unsigned char *ring;
    size_t allocated, capacity, head, queued;
    int waiting, polls_out, idle, broken; /* broken: nobody reads what we write */

    size_t batched;                  /* what is in the batch */
    uint32_t packets, runs;
    double sealed_at;

    uint32_t seqno;
    int helperd, offered, opened, working, job_made, tuning, listening;
    double ping_at, end_by;
    int ending, stopping, status;
    const char *farewell;

    int asked;                       /* PROBEREQ, OPENREQ or LISTREQ: the one job of this process */
    uint32_t asked_seqno;
    int dlt, numbered, number;       /* number: helperd's, for blocks of this link type; -1: it gives none */

    struct failure failure, tune_failure;
    char reason[TEXT];
    int has_radio, has_position;
    hd_radio radio;
    hd_position position;
    uint64_t refused, refused_told, cut;

    int first_order, orders, works;  /* works: a channel of the plan could be tuned */
    size_t buffered;

    /* What is large comes last, and is not touched before it is used. */
    struct { uint32_t length, count; } run[RUNS];
    hd_definition definition;
    unsigned char input[INPUT], batch[MAX_BLOCK];
    struct plan plan, before, order[ORDERS];
} hd;

static volatile sig_atomic_t signalled, wake_fd = -1;

/* Small things */

/* What a function like printf was given, as text. */
#define PRINT_WORDS(to, format)                  \
    do {                                         \
        va_list words;                           \
        va_start(words, format);                 \
        vsnprintf(to, sizeof to, format, words); \
        va_end(words);                           \
    } while (0)

static void lock(void) { pthread_mutex_lock(&hd.lock); }
static void unlock(void) { pthread_mutex_unlock(&hd.lock); }
static int has(const char *text) { return text != NULL && *text != '\0'; }

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double monotonic(void) { return (double)clock_ns(CLOCK_MONOTONIC) * 1e-9; }

/* Wait for `changed`, until a moment unless that is 0. Locked. */
static void wait_changed(double until)
{
    struct timespec at = {(time_t)until, (long)((until - (double)(time_t)until) * 1e9)};
    if (until > 0) pthread_cond_timedwait(&hd.changed, &hd.lock, &at);
    else pthread_cond_wait(&hd.changed, &hd.lock);
}

static void wake(void)
{
    ssize_t ignored = write(hd.wake[1], "w", 1); /* a full pipe wakes as well */
    (void)ignored;
}

/* A line on standard error; returns the status that it is told with. */
HD_PRINTF(2, 3) static int complain(int status, const char *format, ...)
{
    char text[TEXT];
    PRINT_WORDS(text, format);
    fprintf(stderr, "%s: %s\n", hd.helper->type, text);
    return status;
}

static void store(unsigned char *to, uint32_t value) /* big-endian */
{
    for (int at = 3; at >= 0; at--, value >>= 8) to[at] = (unsigned char)value;
}

static uint32_t load(const unsigned char *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void store_little(unsigned char *to, uint32_t value)
{
    for (int at = 0; at < 4; at++, value >>= 8) to[at] = (unsigned char)value;
}

/* Writing msgpack: what does not fit sets `full`. */

struct out { unsigned char *data; size_t size, room; int full, numbered; };

static void put(struct out *out, const void *data, size_t size)
{
    out->full |= size > out->room - out->size;
    if (out->full) return;
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_big(struct out *out, uint64_t value, int bytes)
{
    unsigned char number[8];
    for (int at = 0; at < bytes; at++) number[at] = (unsigned char)(value >> 8 * (bytes - 1 - at));
    put(out, number, (size_t)bytes);
}

/* A code of msgpack, and the number behind it. */
static void put_code(struct out *out, int code, uint64_t value, int bytes)
{
    put_big(out, (uint64_t)code, 1);
    put_big(out, value, bytes);
}

static void put_uint(struct out *out, uint64_t value)
{
    if (value < 0x80) put_big(out, value, 1);
    else if (value <= 0xFFFFFFFF) put_code(out, 0xCE, value, 4);
    else put_code(out, 0xCF, value, 8);
}

static void put_double(struct out *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put_code(out, 0xCB, bits, 8);
}

static int put_text(struct out *out, const char *text) /* whether there is one */
{
    size_t size = text ? strlen(text) : 0;
    if (size < 32) put_big(out, 0xA0 | size, 1);
    else put_code(out, 0xDB, size, 4);
    put(out, text ? text : "", size);
    return size > 0;
}

static int put_texts(struct out *out, const char *const *texts) /* whether there are any, with NULL behind */
{
    size_t count = 0;
    while (texts && texts[count]) count++;
    put_code(out, 0xDC, count, 2);
    for (size_t at = 0; at < count; at++) put_text(out, texts[at]);
    return count > 0;
}

static int put_plan(struct out *out, const struct plan *plan);

/* A map of integer keys: for each letter a key (int) and a value. u: uint64_t; b: truth (int); d: double; and
 * what is left out when it is 0, empty or (i) negative: z: uint64_t; i: int; s: text; l: texts with NULL
 * behind; p: a plan; o: a struct out that is packed already. `behind`: the pairs that the caller writes
 * behind it. */
static void pack_list(struct out *out, size_t behind, const char *kinds, va_list values)
{
    size_t head = out->size, pairs = behind;
    put_big(out, 0, 1);
    for (; *kinds; kinds++) {
        size_t before = out->size;
        int given = 1;
        put_uint(out, (uint64_t)va_arg(values, int));
        switch (*kinds) {
        case 'b': put_big(out, va_arg(values, int) ? 0xC3 : 0xC2, 1); break;
        case 'd': put_double(out, va_arg(values, double)); break;
        case 's': given = put_text(out, va_arg(values, const char *)); break;
        case 'l': given = put_texts(out, va_arg(values, const char *const *)); break;
        case 'p': given = put_plan(out, va_arg(values, const struct plan *)); break;
        case 'o': {
            const struct out *packed = va_arg(values, const struct out *);
            given = packed != NULL;
            if (given) put(out, packed->data, packed->size);
            break;
        }
        default: {
            int64_t number = *kinds == 'i' ? va_arg(values, int) : (int64_t)va_arg(values, uint64_t);
            given = *kinds == 'u' || (*kinds == 'i' ? number >= 0 : number != 0);
            put_uint(out, (uint64_t)number);
        }
        }
        if (given) pairs++;
        else out->size = before;
    }
    if (!out->full) out->data[head] = (unsigned char)(0x80 | pairs);
}

static void pack(struct out *out, size_t behind, const char *kinds, ...)
{
    va_list values;
    va_start(values, kinds);
    pack_list(out, behind, kinds, values);
    va_end(values);
}

/* Begin a frame. request: the number of what it answers; -1: one of our own, given when it is queued. */
static struct out frame(unsigned char *data, size_t room, int type, int code, int64_t request)
{
    struct out out = {data, 0, room, 0, request >= 0};
    put(&out, "\xDE\xCA\xFB\xAD\xA9\xA9\0\3\0\0\0\0", 12);
    put_big(&out, (uint64_t)type, 2);
    put_big(&out, (uint64_t)code, 2);
    put_big(&out, (uint64_t)request, 4);
    return out;
}

/* Reading msgpack: 0, or -1 for what is no msgpack, not the type, or beyond the end. */

struct in { const unsigned char *at, *end; int values; };
struct value {
    char kind; /* 'u'nsigned, '-' (negative), 'f'loat, 'b'ool, 's'tr, 'x' (bin), 'a'rray, 'm'ap */
    uint64_t number;                 /* or the size: bytes, elements, pairs */
    double real;
    const char *text;                /* of 's' and 'x' */
    struct in where;                 /* of what `find` has found, before its head */
};

static int take(struct in *in, size_t bytes, uint64_t *value)
{
    if ((size_t)(in->end - in->at) < bytes) return -1;
    for (*value = 0; bytes > 0; bytes--) *value = *value << 8 | *in->at++;
    return 0;
}

/* The next value; of an array or map only the head. */
static int next_value(struct in *in, struct value *to)
{
    static const char KINDS[] = "  bbxxx   ffuuuuiiii     sssaamm"; /* of codes C0 to DF; ' ': none of ours */
    static const char BYTES[] = "00001240004812481248000001242424"; /* of their numbers */
    uint64_t code;
    if (++in->values > 8192 || take(in, 1, &code)) return -1;
    to->number = code;
    if (code < 0x80) to->kind = 'u';
    else if (code < 0x90) to->kind = 'm', to->number = code & 15;
    else if (code < 0xA0) to->kind = 'a', to->number = code & 15;
    else if (code < 0xC0) to->kind = 's', to->number = code & 31;
    else if (code >= 0xE0) to->kind = '-';
    else {
        int bytes = BYTES[code - 0xC0] - '0';
        to->kind = KINDS[code - 0xC0];
        if (to->kind == ' ' || take(in, (size_t)bytes, &to->number)) return -1;
        if (to->kind == 'b') to->number = code & 1;
        if (to->kind == 'i') to->kind = to->number >> (8 * bytes - 1) & 1 ? '-' : 'u';
        if (code == 0xCA) {
            uint32_t bits = (uint32_t)to->number;
            float real;
            memcpy(&real, &bits, 4);
            to->real = real;
        } else if (code == 0xCB) {
            memcpy(&to->real, &to->number, 8);
        }
    }
    if (to->kind == 'u' || to->kind == 'b') to->real = (double)to->number;
    if (to->kind == 's' || to->kind == 'x') {
        if (to->number > (uint64_t)(in->end - in->at)) return -1;
        to->text = (const char *)in->at;
        in->at += to->number;
    }
    return 0;
}

static int skip_value(struct in *in, int depth)
{
    struct value value;
    if (depth > 8 || next_value(in, &value)) return -1;
    if (value.kind != 'a' && value.kind != 'm') return 0;
    for (uint64_t left = value.kind == 'm' ? 2 * value.number : value.number; left > 0; left--)
        if (skip_value(in, depth + 1)) return -1;
    return 0;
}

/* Find a key of the map at `map`; kind ' ': any. 1: found; 0: absent; -1: wrong, or there twice. */
static int find(struct in map, uint64_t key, char kind, struct value *value)
{
    struct value pairs, one;
    int found = 0;
    if (next_value(&map, &pairs) || pairs.kind != 'm') return -1;
    for (; pairs.number > 0; pairs.number--) {
        if (next_value(&map, &one) || one.kind != 'u') return -1;
        if (one.number == key) {
            struct in at = map;
            if (found++ || next_value(&at, value)) return -1;
            if (value->kind != kind && kind != ' ' && !(kind == 'f' && value->kind == 'u')) return -1;
            value->where = map;
        }
        if (skip_value(&map, 1)) return -1;
    }
    return found;
}

/* The ring; all of it locked */

/* Bytes that are free, beside those that the batch will take. */
static size_t room(void)
{
    size_t sealed = hd.packets ? HEADER + 8 + 8 * (size_t)hd.runs + hd.batched : 0;
    return hd.capacity - hd.queued - sealed;
}

static void queue(const void *data, size_t size)
{
    size_t tail = (hd.head + hd.queued) % hd.capacity, first = hd.capacity - tail;
    if (first > size) first = size;
    memcpy(hd.ring + tail, data, first);
    memcpy(hd.ring, (const unsigned char *)data + first, size - first);
    hd.queued += size;
}

/* Write what the server takes now. */
static void drain(void)
{
    while (hd.queued > 0 && !hd.broken) {
        size_t first = hd.capacity - hd.head;
        if (first > hd.queued) first = hd.queued;
        struct iovec parts[2] = {{hd.ring + hd.head, first}, {hd.ring, hd.queued - first}};
        ssize_t wrote = writev(hd.out_fd, parts, parts[1].iov_len ? 2 : 1);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (wrote < 0) {
            hd.broken = 1;
            break;
        }
        hd.queued -= (size_t)wrote;
        hd.head = hd.queued ? (hd.head + (size_t)wrote) % hd.capacity : 0; /* empty: anew, for fewer pages */
    }
    if (hd.broken) {
        hd.queued = hd.batched = 0;
        hd.packets = hd.runs = 0;
        wake();
    }
    if (hd.waiting && hd.queued <= hd.capacity / 4) pthread_cond_broadcast(&hd.changed);
}

/* Let what is queued leave: now what the server takes, the rest by the main thread. */
static void push(void)
{
    if (hd.polls_out) return; /* it waits for that already */
    drain();
    if (hd.queued > 0) wake();
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
    if (!hd.packets) return;
    frame(head, sizeof head, BULK, 0, next_seqno());
    store(head + 8, (uint32_t)(8 + 8 * hd.runs + hd.batched));
    store_little(head + HEADER, hd.packets);
    store_little(head + HEADER + 4, hd.runs);
    queue(head, sizeof head);
    for (uint32_t run = 0; run < hd.runs; run++) {
        store_little(entry, hd.run[run].length);
        store_little(entry + 4, hd.run[run].count);
        queue(entry, sizeof entry);
    }
    queue(hd.batch, hd.batched);
    hd.packets = hd.runs = 0;
    hd.batched = 0;
}

static void send_batch(double now)
{
    seal();
    hd.sealed_at = now;
    push();
}

/* Have so many bytes free beside the reserve. 0; 1: not now, if it may not wait; -1: the helper shall end. */
static int make_room(size_t need, int wait)
{
    while (!hd.broken && !hd.stopping) {
        if (room() >= need + RESERVE) return 0;
        seal();
        push();
        if (need + RESERVE > hd.capacity && !hd.queued) hd.capacity = hd.allocated;
        if (room() >= need + RESERVE) return 0;
        if (!wait) return 1;
        hd.waiting++;
        wait_changed(monotonic() + 1);
        hd.waiting--;
    }
    return -1;
}

/* Queue a frame, and `data` behind it, after everything written so far; there is room. */
static void queue_frame(struct out *out, const void *data, size_t size)
{
    seal();
    store(out->data + 8, (uint32_t)(out->size + size - HEADER));
    if (!out->numbered) store(out->data + 16, next_seqno());
    queue(out->data, out->size);
    if (size) queue(data, size);
}

/* Send a frame whose payload is a map (see pack_list); not locked. The main thread never waits, others may.
 * 0; 1: too long for the peer; -1: the helper shall end. */
static int send_map(int type, int code, int64_t request, const char *kinds, ...)
{
    unsigned char data[LONG_REPORT];
    struct out out = frame(data, hd.helperd ? sizeof data : REPORT, type, code, request);
    int result = 0, sent;
    va_list values;
    va_start(values, kinds);
    pack_list(&out, 0, kinds, values);
    va_end(values);
    if (out.full) return 1;
    lock();
    if (!pthread_equal(pthread_self(), hd.main)) result = make_room(out.size, 1);
    sent = !hd.broken && room() >= out.size; /* also when it shall end, for the last words */
    if (sent) {
        queue_frame(&out, NULL, 0);
        push();
    }
    unlock();
    return sent ? result : -1;
}

/* The end */

/* End because somebody wants it: the capture must return, the rest leaves within a bounded time. Not locked.
 * farewell: what the server is told; NULL: it knows, or is gone. */
static void end(const char *farewell, int status)
{
    lock();
    if (hd.end_by <= 0) {
        ssize_t ignored = write(hd.stop[1], "s", 1);
        (void)ignored;
        hd.ending = hd.stopping = 1;
        hd.farewell = farewell;
        if (!hd.status) hd.status = status;
        hd.end_by = monotonic() + STOP_GRACE_S + GRACE_S;
        pthread_cond_broadcast(&hd.changed);
        wake();
    }
    unlock();
}

/* End because the work is done: everything leaves first, however long the server takes to read it. */
static void finish(int status)
{
    lock();
    hd.ending = 1;
    if (!hd.status) hd.status = status;
    wake();
    unlock();
}

/* What authors call in callbacks */

/* The failure of this thread's callbacks. */
static struct failure *own_failure(void)
{
    struct failure *own = pthread_getspecific(hd.own_failure);
    return own ? own : &hd.failure;
}

int hd_refuse(const char *problem, const char *format, ...)
{
    struct failure *failure = own_failure();
    snprintf(failure->problem, sizeof failure->problem, "%s", problem ? problem : "");
    PRINT_WORDS(failure->text, format);
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
    PRINT_WORDS(hd.reason, format);
    return 0;
}

void hd_message(int severity, const char *format, ...)
{
    char text[TEXT];
    PRINT_WORDS(text, format);
    if (hd.out_fd < 0) complain(0, "%s", text);
    else send_map(MESSAGE, 0, -1, "us", 1, (uint64_t)severity, 2, has(text) ? text : " ");
}

int hd_stopping(void)
{
    lock();
    int stopping = hd.stopping || hd.broken;
    unlock();
    return stopping;
}

int hd_stop_fd(void) { return hd.stop[0]; }

int hd_wait(double seconds)
{
    double until = monotonic() + (seconds > 0 ? seconds : 0);
    if (hd_flush()) return -1;
    lock();
    while (!hd.stopping && !hd.broken && monotonic() < until) wait_changed(until);
    unlock();
    return hd_stopping() ? -1 : 0;
}

/* Definitions */

/* Options that every definition may have. A server may have cut the value of a list to its first word. */
static const char LISTS[] = ",name,channels,add_channels,block_channels,info_antenna_type,info_amp_type,";
static const char WORDS[] =
    ",type,uuid,retry,timestamp,channel,channel_hop,channel_hoprate,metagps,info_antenna_gain,"
    "info_antenna_orientation,info_antenna_beamwidth,info_amp_gain,";

static int is_among(const char *words, const char *key)
{
    char word[64];
    return snprintf(word, sizeof word, ",%s,", key) < (int)sizeof word && strstr(words, word) != NULL;
}

static int is_own(const char *key)
{
    const hd_option *own = hd.helper->options;
    while (own && own->name && strcmp(own->name, key)) own++;
    return own && own->name;
}

const char *hd_interface(const hd_definition *definition) { return definition->interface; }

static int index_of(const hd_definition *definition, const char *key)
{
    int at = 0;
    while (at < definition->options && strcmp(definition->option[at].key, key)) at++;
    return at;
}

const char *hd_get(const hd_definition *definition, const char *key)
{
    int at = index_of(definition, key);
    return at < definition->options ? definition->option[at].value : NULL;
}

int hd_number(const hd_definition *definition, const char *key, long least, long most, long *value)
{
    const char *text = hd_get(definition, key);
    char *after;
    if (!text) return 0;
    errno = 0;
    long number = strtol(text, &after, 10);
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
    while (isspace((unsigned char)*text)) text++;
    for (size_t size = strlen(text); size > 0 && isspace((unsigned char)text[size - 1]);) text[--size] = '\0';
    return text;
}

static char *unquote(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++)
        if (*from != '"') *to++ = *from;
    *to = '\0';
    return strip(text);
}

/* Cut a text at the next `end`; what is in quotes ends nothing, if they count. Returns the rest, or NULL. */
static char *cut(char *text, char end, int quotes)
{
    for (int quoted = 0; *text && (quoted || *text != end); text++) quoted ^= quotes && *text == '"';
    if (!*text) return NULL;
    *text = '\0';
    return text + 1;
}

static int bad_definition(const char *text, const char *why)
{
    return hd_refuse("bad-definition", "'%.400s': %s; write interface:key=value,key=value", text, why);
}

/* The interface; in quotes it may have any character, "" for a quote. 0, or -1: refused. */
static int read_interface(hd_definition *to, char *name)
{
    size_t size = strlen(name);
    if (!*name) return bad_definition(name, "the interface is missing");
    if (!to->loose && *name != '"' && strchr(name, ','))
        return bad_definition(name, "a comma before the first colon");
    to->interface = name;
    if (*name != '"') return 0;
    if (size < 3 || name[size - 1] != '"')
        return bad_definition(name, "a quoted interface ends with a quote and a colon");
    name[size - 1] = '\0';
    to->interface = ++name;
    for (const char *from = name; *from; from++) {
        if (from[0] == '"' && from[1] == '"') from++;
        *name++ = *from;
    }
    *name = '\0';
    return 0;
}

/* Read a definition: strictly from helperd, and from a Kismet server whatever it has made of it (quotes gone,
 * a list cut to its first word, options twice: the first counts). 0, or -1: refused. */
static int read_definition(hd_definition *to, const char *text, size_t size, int loose)
{
    char *next, *last = NULL; /* last: the value that a word without key= belongs to */
    int quotes = 0, stray = 0, twice = 0, shown = (int)(size < 400 ? size : 400);
    if (size >= sizeof to->text)
        return hd_refuse("bad-definition", "a definition of %lu bytes is too long", (unsigned long)size);
    memcpy(to->text, text, size);
    to->text[size] = '\0';
    to->options = 0;
    to->loose = loose;
    for (char *at = to->text; at < to->text + size; at++) {
        if (!iscntrl((unsigned char)*at)) continue;
        if (!loose || !*at)
            return hd_refuse("bad-definition", "a control character in the definition; write it without");
        *at = ' ';
    }
    char *name = strip(to->text), *part = cut(name, ':', *name == '"');
    if (read_interface(to, strip(name))) return -1;
    for (const char *at = part; at && *at; at++) quotes += *at == '"';
    if (quotes % 2 && !loose) return bad_definition(part, "a quote is not closed");
    if (quotes % 2) unquote(part);
    for (; part; part = next) {
        next = cut(part, ',', 1);
        char *value = strchr(part, '=');
        if (!value || value == part || memchr(part, '"', (size_t)(value - part))) { /* a word without key= */
            part = unquote(part);
            if (*part && last) {
                last += strlen(last);
                memmove(last + 1, part, strlen(part) + 1);
                *last = ',';
            } else if (*part && !loose) {
                return bad_definition(part, "not key=value");
            } else {
                stray += *part != '\0';
            }
            continue;
        }
        *value++ = '\0';
        value = unquote(value);
        char *key = strip(part);
        for (char *at = key; *at; at++) *at = (char)tolower((unsigned char)*at);
        if (!loose && (!*key || strchr(key, ':'))) return bad_definition(key, "no key");
        int number = index_of(to, key), new = number == to->options;
        if (number == OPTIONS) return bad_definition(to->interface, "too many options");
        to->options += new;
        twice += !new && loose;
        if (new) to->option[number].key = key;
        if (new || !loose) to->option[number].value = value;
        last = !loose || (new && (is_own(key) || is_among(LISTS, key))) ? value : NULL;
    }
    if (stray)
        hd_message(HD_ERROR,
                   "%d words that belong to no option are left out, perhaps the end of a list (in %.*s)",
                   stray, shown, text);
    if (twice) hd_message(HD_ERROR, "an option is given twice, the first counts (in %.*s)", shown, text);
    return 0;
}

/* Refuse options nobody knows; leave out and tell what a Kismet server may have made up. */
static int check_options(hd_definition *definition)
{
    char known[512] = "none of its own";
    int kept = 0;
    size_t used = 0;
    for (const hd_option *own = hd.helper->options; own && own->name && used < sizeof known; own++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", own->name);
    for (int at = 0; at < definition->options; at++) {
        const char *key = definition->option[at].key;
        if (is_own(key) || is_among(LISTS, key) || is_among(WORDS, key)) {
            definition->option[kept++] = definition->option[at];
            continue;
        }
        hd_refuse("bad-definition", "%s has no option '%.100s'; it knows %s", hd.helper->type, key, known);
        if (!definition->loose) return -1;
        hd_message(HD_ERROR, "%s", hd.failure.text);
    }
    definition->options = kept;
    return 0;
}

static uint32_t checksum(const char *text)
{
    uint32_t one = 0, two = 0;
    for (const char *at = text; *at; at++) two += one += (unsigned char)*at;
    return strlen(text) < 4 ? 0 : (one & 0xFFFF) + (two << 16);
}

static uint64_t fnv(uint64_t hash, const char *text)
{
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}

/* The identity of a device, the same after every restart; as helperd.wire.identity. */
static const char *uuid_of(const hd_definition *definition, const char *own, char to[64])
{
    const char *given = hd_get(definition, "uuid"), *from = hd.helper->identity,
               *interface = definition->interface;
    char name[256];
    uint64_t hash = 0;
    if (has(given)) return given;
    if (has(own) || (hd.helper->shared && hd.helperd)) return own;
    snprintf(name, sizeof name, "helperd_%s", hd.helper->type);
    if (!has(from)) from = name;
    if (strncmp(from, "kismet_cap_", 11)) {
        hash = fnv(fnv(0xCBF29CE484222325u, from) * 0x100000001B3u, interface); /* a NUL between the two */
        hash = (hash >> 48) ^ (hash & 0xFFFFFFFFFFFFu);
    } else if (strlen(interface) >= 4) {
        hash = checksum(interface);
    } else {
        for (; *interface; interface++) hash = hash << 8 | (unsigned char)*interface;
    }
    snprintf(to, 64, "%08lX-0000-0000-0000-%012llX", (unsigned long)checksum(from), (unsigned long long)hash);
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
    if (packets && hd.helperd && hd.opened) send_map(COUNT, 0, -1, "su", 1, word, 2, packets);
}

void hd_lost(uint64_t packets, const char *word)
{
    static const char LOST[] = ",kernel,device,helper-queue,link-type,too-long,bad-record,";
    static const char CHANGED[] = ",cut,bad-stamp,not-finite,";
    int lost = is_among(LOST, word), changed = is_among(CHANGED, word);
    if (!packets) return;
    count(packets, lost || changed ? word : "device");
    hd_message(HD_ERROR, "%lu packets %s (%s%s)", (unsigned long)packets, changed ? "changed" : "lost", word,
               lost || changed ? "" : ": no word for it, they are counted as device");
}

/* Tell how many packets hd_offer has not taken since this was told last. */
static void tell_refused(void)
{
    uint64_t refused = hd.refused - hd.refused_told;
    hd.refused_told = hd.refused;
    if (refused) hd_lost(refused, "helper-queue");
}

/* Something was queued or put into the batch: send it at once when rare or much, else within a tick. */
static void nudge(int much)
{
    double now = monotonic();
    if (much || now - hd.sealed_at > TICK_S) {
        send_batch(now);
    } else if (hd.idle) {
        hd.idle = 0;
        wake();
    }
}

/* Radio and position as text, for the comment of a block; at most 430 bytes. Returns how many. */
static size_t describe(char *to, size_t room_)
{
    const hd_radio *radio = &hd.radio;
    const hd_position *at = &hd.position;
    const struct { const char *word, *unit; double value; } words[] = {
        {"signal", "dBm", radio->dbm}, {"noise", "dBm", radio->noise_dbm}, {"rssi", "", radio->rssi},
        {"noise_rssi", "", radio->noise_rssi}, {"freq", "kHz", (double)radio->khz},
        {"rate", "", (double)radio->rate}};
    size_t size = 0;
    for (size_t word = 0; hd.has_radio && word < LENGTH(words); word++)
        if (words[word].value < 0 || words[word].value > 0)
            size += (size_t)snprintf(to + size, room_ - size, "%s%s=%.15g%s", size ? " " : "",
                                     words[word].word, words[word].value, words[word].unit);
    if (hd.has_radio && has(radio->channel))
        size += (size_t)snprintf(to + size, room_ - size, "%schannel=%.63s", size ? " " : "", radio->channel);
    if (hd.has_position)
        size += (size_t)snprintf(to + size, room_ - size,
                                 "%slat=%.15g lon=%.15g alt=%.15gm speed=%.15gkm/h "
                                 "heading=%.15g precision=%.15gm",
                                 size ? " " : "", at->latitude, at->longitude, at->altitude, at->speed,
                                 at->heading, at->precision);
    return size;
}

/* The options of a block: what is known of its packet. */
static size_t block_options(unsigned char to[OPTIONS_ROOM], uint32_t flags)
{
    char text[512];
    if (!flags && !hd.has_radio && !hd.has_position) return 0;
    size_t length = describe(text, sizeof text), size = length ? 4 + ((length + 3) & ~(size_t)3) : 0;
    memset(to, 0, OPTIONS_ROOM);
    if (length) {
        store_little(to, 1 | (uint32_t)length << 16);
        memcpy(to + 4, text, length);
    }
    if (flags) {
        store_little(to + size, 2 | 4 << 16);
        store_little(to + size + 4, flags);
        size += 8;
    }
    return size ? size + 4 : 0;
}

/* A packet as a block of the batch; there is room. Locked. */
static void add_block(const void *data, size_t size, const hd_meta *meta, const unsigned char *options,
                      size_t options_size)
{
    size_t padded = (size + 3) & ~(size_t)3, total = 32 + padded + options_size;
    const uint32_t words[] = {6, (uint32_t)total, (uint32_t)hd.number, (uint32_t)(meta->ns >> 32),
                              (uint32_t)meta->ns, (uint32_t)size, meta->original};
    if (hd.packets && (hd.batched + total > BATCH || hd.runs == RUNS)) send_batch(monotonic());
    unsigned char *to = hd.batch + hd.batched;
    for (size_t at = 0; at < LENGTH(words); at++) store_little(to + 4 * at, words[at]);
    memcpy(to + 28, data, size);
    memset(to + 28 + size, 0, padded - size);
    memcpy(to + 28 + padded, options, options_size);
    store_little(to + total - 4, (uint32_t)total);
    if (!hd.runs || hd.run[hd.runs - 1].length != total) {
        hd.run[hd.runs].length = (uint32_t)total;
        hd.run[hd.runs++].count = 0;
    }
    hd.run[hd.runs - 1].count++;
    hd.batched += total;
    if (hd.packets++ == 0) nudge(total > BATCH);
}

/* The head of a data report up to its packet or JSON block. */
static struct out report_head(unsigned char *data, size_t size, uint64_t ns)
{
    struct out out = frame(data, size, PACKET, 0, -1);
    const hd_position *at = &hd.position;
    const hd_radio *radio = &hd.radio;
    put_big(&out, 0x81u + (unsigned)hd.has_position + (unsigned)hd.has_radio, 1);
    if (hd.has_position) {
        put_uint(&out, 1);
        pack(&out, 0, "dddudddzzss", 1, at->latitude, 2, at->longitude, 3, at->altitude, 4, (uint64_t)at->fix,
             5, at->speed, 6, at->heading, 7, at->precision, 8, ns / 1000000000u, 9, ns / 1000u % 1000000u,
             10, at->type, 11, at->name);
    }
    if (hd.has_radio) {
        put_uint(&out, 2);
        pack(&out, 0, "zzzzzzs", 1, (uint64_t)(uint32_t)radio->dbm, 2, (uint64_t)(uint32_t)radio->noise_dbm,
             3, (uint64_t)(uint32_t)radio->rssi, 4, (uint64_t)(uint32_t)radio->noise_rssi, 5, radio->khz,
             6, radio->rate, 7, radio->channel);
    }
    return out;
}

/* A data report: `head` and the content behind it; there is room. Locked. */
static void add_report(struct out *head, const void *data, size_t size)
{
    queue_frame(head, data, size);
    nudge(hd.queued >= BATCH);
}

/* A packet, cut to what the peer takes: as a block if helperd has given the device's link type a number,
 * otherwise as a data report. 0, 1: not taken, -1. `wait`: whether it may. */
static int packet(const void *data, size_t captured, const hd_meta *given, int wait)
{
    unsigned char head[768], options[OPTIONS_ROOM];
    hd_meta meta = {0};
    if (given) meta = *given;
    if (!meta.ns) meta.ns = clock_ns(CLOCK_REALTIME);
    if (!meta.original) meta.original = captured > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)captured;
    if (!meta.dlt) meta.dlt = hd.dlt;
    if (meta.dlt < 0 || meta.dlt > 0xFFFF) {
        hd_lost(1, "link-type");
        return 1;
    }
    size_t options_size = hd.helperd ? block_options(options, meta.flags) : 0;
    size_t most = hd.helperd ? MAX_BLOCK - 32 - options_size : REPORT - 512,
           size = captured < most ? captured : most;
    lock();
    int result = make_room(size + AROUND, wait);
    if (result && !wait) hd.refused++;
    if (!result && hd.number >= 0 && meta.dlt == hd.dlt) {
        add_block(data, size, &meta, options, options_size);
    } else if (!result) {
        struct out out = report_head(head, sizeof head, meta.ns);
        put_big(&out, 0x048501CD, 4), put_big(&out, (uint64_t)meta.dlt, 2); /* widths that readers know */
        put_uint(&out, 2), put_uint(&out, meta.ns / 1000000000u);
        put_uint(&out, 3), put_code(&out, 0xCE, meta.ns / 1000u % 1000000u, 4);
        put_uint(&out, 4), put_code(&out, 0xCE, meta.original, 4);
        put_uint(&out, 6), put_code(&out, 0xC6, size, 4);
        add_report(&out, data, size);
    }
    int was_cut = !result && size < captured;
    hd.cut += (uint64_t)was_cut;
    unlock();
    hd.has_radio = 0;
    if (was_cut) count(1, "cut");
    if (was_cut && !(hd.cut & (hd.cut - 1))) /* the first, and each time that it has doubled */
        hd_message(HD_ERROR,
                   "%lu packets cut because the peer takes no longer frames: to %lu bytes; the last had %lu",
                   (unsigned long)hd.cut, (unsigned long)size, (unsigned long)captured);
    return result;
}

int hd_packet(const void *data, size_t captured, const hd_meta *meta)
{
    tell_refused();
    return packet(data, captured, meta, 1);
}

int hd_offer(const void *data, size_t captured, const hd_meta *meta)
{
    if (hd.refused > hd.refused_told) {
        lock();
        int full = make_room(4 * TEXT, 0);
        unlock();
        if (!full) tell_refused();
    }
    return packet(data, captured, meta, 0);
}

int hd_json(const char *kind, const char *text, uint64_t ns)
{
    unsigned char data[1024];
    size_t size = strlen(text), most = hd.helperd ? MAX_BLOCK : REPORT - 512;
    if (!ns) ns = clock_ns(CLOCK_REALTIME);
    struct out out = report_head(data, sizeof data, ns);
    hd.has_radio = 0;
    put_uint(&out, 5);
    pack(&out, 1, "suuz", 1, kind, 2, ns / 1000000000u, 3, ns / 1000u % 1000000u, 64,
         hd.helperd ? ns % 1000 : 0);
    put_uint(&out, 4);
    put_code(&out, 0xDB, size, 4);
    if (size > most || out.full || !has(kind)) {
        hd_lost(1, has(kind) ? "too-long" : "bad-record");
        return 1;
    }
    lock();
    int result = make_room(out.size + size, 1);
    if (!result) add_report(&out, text, size);
    unlock();
    return result;
}

int hd_flush(void)
{
    tell_refused();
    lock();
    send_batch(monotonic());
    unlock();
    return hd_stopping() ? -1 : 0;
}

/* Channels */

/* Each channel once a round, whatever the stride. */
static void walk(struct plan *plan)
{
    double skip = plan->setting[SKIP];
    int stride = plan->setting[SHUFFLE] > 0 && skip > 1 && skip < plan->channels ? (int)skip : 1, number = 0;
    for (int first = 0; first < stride; first++)
        for (int at = first; at < plan->channels; at += stride) plan->at[number++].order = at;
}

/* Make a plan of an order for a hop list; what it does not say is as `before`. 0, or -1: refused. */
static int complete(struct plan *order, const struct plan *before)
{
    static const double DEFAULTS[SETTINGS] = {[RATE] = 5, [SKIP] = 4};
    int kept = 0;
    for (int at = 0; at < SETTINGS; at++)
        if (!(order->said >> at & 1)) order->setting[at] = before ? before->setting[at] : DEFAULTS[at];
    for (int at = 0; at < order->channels; at++) {
        struct channel *to = &order->at[kept];
        int other = 0;
        while (other < kept && strcmp(order->at[other].name, order->at[at].name)) other++;
        if (other < kept) continue;
        memmove(to->name, order->at[at].name, NAME);
        to->value = to->failed = 0;
        to->unknown = hd.helper->channel_parse && hd.helper->channel_parse(to->name, &to->value) < 0;
        kept++;
    }
    order->channels = kept;
    if (!kept) return hd_refuse("bad-definition", "a hop list needs at least one channel");
    if (!(order->setting[RATE] >= 0 && order->setting[RATE] < 1e9))
        return hd_refuse("bad-definition", "a hop rate is 0 or more hops per second");
    walk(order);
    order->place = (int)((uint32_t)order->setting[OFFSET] % (uint32_t)kept);
    return 0;
}

/* Whether a name of so many bytes was added to a plan. */
static int add_channel(struct plan *to, const char *name, size_t size)
{
    if (!size || size >= NAME || to->channels == CHANNELS || memchr(name, 0, size)) return 0;
    memcpy(to->at[to->channels].name, name, size);
    to->at[to->channels++].name[size] = '\0';
    return 1;
}

/* Tune; value NULL: translate the name first. -1: it could not, and own_failure() says why. */
static int try_channel(const char *name, const int64_t *value, int hop)
{
    int64_t own = 0;
    hd_refuse("", "it cannot");
    if (!value && hd.helper->channel_parse && hd.helper->channel_parse(name, &own) < 0) return -1;
    if (value) own = *value;
    return (hop && hd.helper->hop ? hd.helper->hop : hd.helper->channel_set)(name, own) < 0 ? -1 : 0;
}

static int put_plan(struct out *out, const struct plan *plan)
{
    if (!plan) return 0;
    pack(out, 1, "dbuu", 1, plan->setting[RATE], 2, plan->setting[SHUFFLE] > 0, 3,
         (uint64_t)plan->setting[SKIP], 4, (uint64_t)plan->setting[OFFSET]);
    put_uint(out, 5);
    put_code(out, 0xDC, (uint64_t)plan->channels, 2);
    for (int at = 0; at < plan->channels; at++) put_text(out, plan->at[at].name);
    return 1;
}

/* A configure report: what it does now, or (NULL) a refusal. request 0: nobody asked. */
static void send_configured(uint32_t request, const struct plan *plan, const char *text, const char *problem)
{
    int fixed = plan && plan->fixed;
    if (send_map(CONFIGREPORT, plan != NULL, request, "uspss", 1, (uint64_t)request, 2,
                 fixed ? plan->at[0].name : NULL, 3, fixed ? NULL : plan, 4, text, PROBLEM, problem) > 0)
        send_configured(request, NULL, "the hop list does not fit into a report", "no-resources");
}

static void copy_plan(struct plan *to, const struct plan *from)
{
    memcpy(to, from, offsetof(struct plan, at) + (size_t)from->channels * sizeof *from->at);
}

static int is_hopping(void) { return hd.plan.channels && !hd.plan.fixed && hd.plan.setting[RATE] > 0; }

static void obey(struct plan *order)
{
    char text[TEXT];
    const char *name = order->at[0].name;
    struct failure *failure = own_failure();
    if (order->fixed ? try_channel(name, NULL, 0) : complete(order, is_hopping() ? &hd.plan : NULL)) {
        snprintf(text, sizeof text, "cannot tune to channel %.63s: %.900s", name, failure->text);
        send_configured(order->request, NULL, order->fixed ? text : failure->text, failure->problem);
        return;
    }
    if (hd.works) copy_plan(&hd.before, &hd.plan);
    hd.works = order->fixed;
    copy_plan(&hd.plan, order);
    send_configured(order->request, &hd.plan, NULL, NULL);
}

/* Nothing of a list could be tuned: go back to what it did before it was asked to, or end. */
static void give_up(void)
{
    char text[TEXT];
    struct plan *before = &hd.before;
    struct failure why = hd.plan.why;
    snprintf(text, sizeof text, "none of the channels can be tuned, the last because: %.900s", why.text);
    hd.plan.channels = 0;
    if (before->channels && (!before->fixed || !try_channel(before->at[0].name, NULL, 0))) {
        copy_plan(&hd.plan, before);
        hd.works = 1;
        strcat(text, "; back as before"); /* at most 960 bytes of TEXT were used */
        send_configured(0, &hd.plan, text, NULL);
    } else if (before->channels) {
        hd_message(HD_ERROR, "%s; it stays where it is", text);
    } else {
        hd_message(HD_ERROR, "%s", text);
        send_map(ERROR, 1, 0, "ss", 1, text, PROBLEM, why.problem);
        end(NULL, 1);
    }
    before->channels = 0;
}

static void hop_once(void)
{
    struct plan *plan = &hd.plan;
    struct channel *now = &plan->at[plan->at[plan->place].order];
    struct failure *failure = own_failure();
    char text[TEXT];
    int kept = 0, before = plan->channels;
    plan->place = (plan->place + 1) % plan->channels;
    if (now->unknown) hd_refuse("", "it is no channel of this device");
    now->failed = now->unknown || try_channel(now->name, &now->value, 1);
    if (now->failed) {
        snprintf(plan->why.text, sizeof plan->why.text, "%.63s: %.900s", now->name, failure->text);
        memcpy(plan->why.problem, failure->problem, sizeof plan->why.problem);
    } else {
        hd.works = 1;
    }
    if (plan->place) return;
    for (int at = 0; at < before; at++)
        if (!plan->at[at].failed) plan->at[kept++] = plan->at[at];
    if (kept == before) return;
    plan->channels = kept;
    if (!kept) {
        give_up();
        return;
    }
    walk(plan);
    snprintf(text, sizeof text, "removed %d channels from the hop list: %.900s", before - kept,
             plan->why.text);
    send_configured(0, plan, text, NULL);
}

/* Hops are due at fixed times from the order on: who was held up catches up, so that radios that share a list
 * keep their distance; who is late by more than a round is late by whole rounds. */
static void *tune(void *unused)
{
    double due = monotonic(), ready = due; /* ready: when the last hop has lasted long enough */
    (void)unused;
    pthread_setspecific(hd.own_failure, &hd.tune_failure);
    lock();
    while (!hd.stopping) {
        double at = due > ready ? due : ready;
        if (hd.orders) {
            unlock();
            obey(&hd.order[hd.first_order]);
            due = ready = monotonic();
            lock();
            hd.first_order = (hd.first_order + 1) % ORDERS;
            hd.orders--;
        } else if (is_hopping() && monotonic() >= at) {
            double interval =
                hd.plan.setting[RATE] * SHORTEST_HOP_S < 1 ? 1 / hd.plan.setting[RATE] : SHORTEST_HOP_S;
            double a_round = interval * hd.plan.channels;
            unlock();
            hop_once();
            due += interval;
            if (monotonic() - due > a_round)
                due += (double)(int64_t)((monotonic() - due) / a_round) * a_round;
            ready = monotonic() + SHORTEST_HOP_S;
            lock();
        } else {
#ifdef HD_FUZZ
            break;
#endif
            wait_changed(is_hopping() ? at : 0);
        }
    }
    unlock();
    pthread_setspecific(hd.own_failure, NULL);
    return NULL;
}

/* A thread with the signals blocked, which are the main thread's. */
static int start_thread(pthread_t *thread, void *(*run)(void *))
{
#ifdef HD_FUZZ
    *thread = hd.main;
    run(NULL);
    return 0;
#else
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(thread, &attributes, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return result;
#endif
}

static void start_tuner(void)
{
    lock();
    int first = !hd.tuning;
    hd.tuning = 1;
    pthread_cond_broadcast(&hd.changed);
    unlock();
    if (first && start_thread(&hd.tuner, tune)) {
        hd_message(HD_ERROR, "no thread to tune in: the channel stays as it is");
        hd.tuning = 0;
    }
#ifdef HD_FUZZ
    hd.tuning = 0;
#endif
}

/* A CONFIGREQ: exactly one of a channel and a hop list. 0, or -1: it is none. */
static int configure(uint32_t seqno, struct in map)
{
    static struct plan order;
    static const char KINDS[SETTINGS] = {[RATE] = 'f', [SHUFFLE] = 'b', [SKIP] = 'u', [OFFSET] = 'u'};
    struct value channel, hop, field, name;
    char text[TEXT];
    const char *why = NULL;
    int fixed = find(map, 1, 's', &channel), hops = find(map, 2, 'm', &hop), named = 1;
    if (fixed < 0 || hops < 0 || fixed + hops != 1) return -1;
    memset(&order, 0, offsetof(struct plan, at));
    order.request = seqno;
    order.fixed = fixed;
    if (fixed) named = add_channel(&order, channel.text, channel.number);
    for (int at = 0; hops && at < SETTINGS; at++) {
        int found = find(hop.where, (uint64_t)at + 1, KINDS[at], &field);
        if (found < 0 || (found && KINDS[at] == 'u' && field.number > 0xFFFFFFFFu)) return -1;
        if (found) order.said |= 1u << at, order.setting[at] = field.real;
    }
    int listed = hops ? find(hop.where, 5, 'a', &field) : 0;
    if (listed < 0 || (listed && next_value(&field.where, &field))) return -1;
    struct in list = listed ? field.where : map;
    for (uint64_t left = listed ? field.number : 0; left > 0; left--) {
        if (next_value(&list, &name) || name.kind != 's') return -1;
        named = named && add_channel(&order, name.text, name.number);
    }
    lock();
    if (!hd.helper->channel_set) why = "it has no channels";
    else if (!hd.opened) why = "nothing is open yet";
    else if (!named && fixed) why = "that is no name of a channel";
    else if (!named) why = "the list has too many channels, or one of no name or too long a name";
    else if (hd.orders == ORDERS) why = "too many orders to tune are waiting";
    else copy_plan(&hd.order[(hd.first_order + hd.orders++) % ORDERS], &order);
    unlock();
    if (!why) start_tuner();
    else snprintf(text, sizeof text, "%s cannot tune: %s", hd.helper->type, why);
    if (why) send_configured(seqno, NULL, text, "not-supported");
    return 0;
}

/* The job: one list, probe or open a process */

struct hd_list { struct out *out; size_t count, left_out; };

void hd_list_add(hd_list *devices, const char *interface, const char *flags, const char *hardware)
{
    if (devices->out) {
        struct out before = *devices->out;
        pack(devices->out, 0, "sss", 1, interface, 2, flags, 3, hardware);
        if (devices->out->full) {
            *devices->out = before;
            devices->left_out++;
            return;
        }
    } else {
        const char *quote = strpbrk(interface, ":,\"") ? "\"" : "";
        printf("%s%s%s:type=%s%s%s%s%s\n", quote, interface, quote, hd.helper->type, has(flags) ? "," : "",
               has(flags) ? flags : "", has(hardware) ? "\t" : "", has(hardware) ? hardware : "");
    }
    devices->count++;
}

static const char *version(void)
{
    static char text[128];
    snprintf(text, sizeof text, "%.60s (%s)", has(hd.helper->version) ? hd.helper->version : "1", SDK);
    return text;
}

/* The report that says no. */
static void send_refusal(void)
{
    static const struct out EMPTY_MAP = {(unsigned char *)"\x80", 1, 1, 0, 0};
    int open = hd.asked == OPENREQ, probe = hd.asked == PROBEREQ, list = hd.asked == LISTREQ;
    if (hd_stopping()) return;
    send_map(hd.asked + 1, list, list ? -1 : (int64_t)hd.asked_seqno, "usoss", 1, (uint64_t)hd.asked_seqno,
             open ? 9 : 3, hd.failure.text, 2, probe ? &EMPTY_MAP : NULL, PROBLEM, hd.failure.problem,
             open ? 10 : 4, probe ? NULL : version());
}

/* Each of these returns 0, -1: refused, or 1: does not fit into a report. */

static int do_list(void)
{
    unsigned char items[REPORT - 1024], counted[REPORT];
    struct out inner = {items, 0, sizeof items, 0, 0}, array = {counted, 0, sizeof counted, 0, 0};
    hd_list devices = {&inner, 0, 0};
    char text[80] = "";
    if (hd.helper->list && hd.helper->list(&devices) < 0) return -1;
    put_code(&array, 0xDC, devices.count, 2);
    put(&array, items, inner.size);
    if (devices.left_out)
        snprintf(text, sizeof text, "%lu more devices do not fit into the report",
                 (unsigned long)devices.left_out);
    return send_map(LISTREQ + 1, 0, -1, "uoss", 1, (uint64_t)hd.asked_seqno, 2, &array, 3, text, 4,
                    version());
}

static int probe(hd_device *device)
{
    const char *type = hd_get(&hd.definition, "type");
    if (hd.helper->probe) return hd.helper->probe(&hd.definition, device);
    return type && !strcasecmp(type, hd.helper->type);
}

static int do_probe(void)
{
    unsigned char data[REPORT];
    struct out about = {data, 0, sizeof data, 0, 0};
    hd_device device = {0};
    int mine = probe(&device);
    if (mine < 0 || (mine && check_options(&hd.definition))) return -1;
    pack(&about, 0, "sssl", 3, device.hardware, 4, device.capture_interface, 5, device.channel, 6,
         device.channels);
    if (about.full) return 1;
    return send_map(PROBEREQ + 1, mine > 0, hd.asked_seqno, "uso", 1, (uint64_t)hd.asked_seqno, 3,
                    device.message, 2, &about);
}

/* Begin as the definition and open want it: a fixed channel, or a hop list. */
static int first_plan(const hd_device *device)
{
    struct plan *plan = &hd.plan;
    const char *name = has(device->channel) ? device->channel : hd_get(&hd.definition, "channel");
    hd.works = 1;
    if (!hd.helper->channel_set) return 0;
    if (has(name)) {
        plan->fixed = 1;
        if (!add_channel(plan, name, strlen(name)))
            return hd_refuse("not-supported", "the name of a channel has %d bytes at most", NAME - 1);
        if (!has(device->channel) && try_channel(name, NULL, 0)) return -1;
    }
    if (!device->hop) return 0;
    plan->fixed = plan->channels = hd.works = 0;
    plan->setting[RATE] = device->hop_rate;
    plan->said = device->hop_rate > 0 ? 1u << RATE : 0;
    for (const char *const *hop = device->hop; *hop; hop++)
        if (!add_channel(plan, *hop, strlen(*hop)))
            return hd_refuse("bad-definition", "the hop list is too long");
    return complete(plan, NULL);
}

/* The number of the device's link type comes unasked, right behind the open report; or never. */
static void await_number(void)
{
    double until = monotonic() + NUMBER_S;
    lock();
    while (hd.helperd && hd.dlt >= 0 && !hd.numbered && !hd.stopping && !hd.broken && monotonic() < until)
        wait_changed(until);
    unlock();
}

static int do_open(void)
{
    hd_device device = {.dlt = -1};
    char uuid[64];
    if (check_options(&hd.definition) || hd.helper->open(&hd.definition, &device) < 0 || first_plan(&device))
        return -1;
    int hops = is_hopping();
    hd.dlt = device.dlt;
    lock();
    hd.opened = 1;
    unlock();
    int result = send_map(OPENREQ + 1, 1, hd.asked_seqno, "uislspssss", 1, (uint64_t)hd.asked_seqno, 2,
                          device.dlt, 3, device.capture_interface, 4, device.channels, 5,
                          hd.plan.fixed ? hd.plan.at[0].name : device.channel, 6, hops ? &hd.plan : NULL, 7,
                          device.hardware, 8, uuid_of(&hd.definition, device.uuid, uuid), 9, device.message,
                          10, version());
    if (result) {
        hd.opened = 0;
        return result;
    }
    if (has(device.warning)) hd_message(HD_ERROR, "%s", device.warning);
    if (hops) start_tuner();
    await_number();
    hd_refuse("", "the capture failed");
    result = hd.helper->capture();
    if (hd_flush()) return 0;
    if (result < 0) {
        hd_message(HD_ERROR, "%s", hd.failure.text);
        send_map(ERROR, 1, 0, "ss", 1, hd.failure.text, PROBLEM, hd.failure.problem);
        finish(1);
        return 0;
    }
    if (!has(hd.reason)) hd_end("the capture has ended");
    hd_message(HD_INFO, "%s", hd.reason);
    if (!hd.helperd) return 0; /* a Kismet server would begin it all again: stay, and answer */
    send_map(SHUTDOWN, 1, -1, "s", 1, hd.reason);
    finish(0);
    return 0;
}

static void *job(void *unused)
{
    int result = hd.asked == LISTREQ ? do_list() : hd.asked == PROBEREQ ? do_probe() : do_open();
    (void)unused;
    if (result > 0) hd_refuse("no-resources", "what is known of the device does not fit into a report");
    if (result) send_refusal();
    if (hd.asked == OPENREQ && hd.helper->close) hd.helper->close();
    if (!hd.opened) finish(0);
    lock();
    hd.working = 0;
    wake();
    unlock();
    return NULL;
}

static void begin_job(int what, uint32_t seqno, const char *text, size_t size)
{
    if (hd.asked) {
        send_map(ERROR, 1, seqno, "ss", 1, "this helper is busy; one job per process", PROBLEM, "busy");
        return;
    }
    hd.asked = what;
    hd.asked_seqno = seqno;
    if (what == LISTREQ || !read_definition(&hd.definition, text, size, !hd.helperd)) {
        hd.working = 1;
        int error = start_thread(&hd.job, job);
        hd.job_made = !error;
        if (!error) return;
        hd_refuse("no-resources", "cannot start a thread: %s", strerror(error));
    }
    hd.working = 0;
    send_refusal();
    finish(0);
}

/* Listening */

/* A REGISTER: helperd accepts the extension, or numbers a link type. */
static int registered(struct in map)
{
    struct value name, dlt, number;
    int typed = find(map, 65, 'u', &dlt), numbered = find(map, 64, 'u', &number);
    if (find(map, 1, 's', &name) < 1 || typed < 0 || numbered < 0) return -1;
    if (name.number != sizeof SUBSYSTEM - 1 || memcmp(name.text, SUBSYSTEM, name.number)) return 0;
    lock();
    hd.helperd = 1;
    if (hd.opened && typed && dlt.number == (uint64_t)hd.dlt && !hd.numbered) {
        hd.number = numbered && number.number <= 0x7FFFFFFF ? (int)number.number : -1;
        hd.numbered = 1;
    }
    pthread_cond_broadcast(&hd.changed);
    unlock();
    return 0;
}

static void pong(uint32_t seqno)
{
    unsigned char data[HEADER], offer[HEADER + 64];
    struct out out = frame(data, sizeof data, PONG, 0, seqno);
    lock();
    hd.ping_at = monotonic();
    if (!hd.broken) queue_frame(&out, NULL, 0);
    if (!hd.broken && !hd.offered) { /* in the same write: what only helperd understands */
        hd.offered = 1;
        out = frame(offer, sizeof offer, REGISTER, 0, -1);
        pack(&out, 0, "s", 1, SUBSYSTEM);
        queue_frame(&out, NULL, 0);
    }
    push();
    unlock();
}

/* One frame. 0, or what is wrong with it. */
static const char *handle(int type, uint32_t seqno, const unsigned char *payload, size_t size)
{
    struct in map = {payload, payload + size, 0};
    struct value text;
    int wrong = 0;
    switch (type) {
    case PING: pong(seqno); break;
    case LISTREQ: begin_job(LISTREQ, seqno, NULL, 0); break;
    case PROBEREQ: case OPENREQ:
        if (find(map, 1, 's', &text) < 1) return "the payload is no request";
        begin_job(type, seqno, text.text, text.number);
        break;
    case CONFIGREQ: wrong = configure(seqno, map); break;
    case REGISTER: wrong = registered(map); break;
    case SHUTDOWN:
        if (find(map, 1, ' ', &text) < 0) return "the payload is no map";
        end(NULL, 0);
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
        uint32_t word = load(data + 4), size = load(data + 8), head = word == 0xABCD0002 ? HEADER_V2 : HEADER;
        lock();
        int full = room() < RESERVE;
        unlock();
        if (full) break;
        if (load(data) != 0xDECAFBAD) why = "bad-signature: a frame does not start with DE CA FB AD";
        else if (word >> 16 == 0xA9A9 && word != 0xA9A90003) why = "bad-version: v3 frames have version 3";
        else if (word != 0xA9A90003 && head != HEADER_V2)
            why = "wrong-generation: this helper speaks v3 only";
        else if (size > INPUT - head) why = "frame-too-long: 65536 bytes at most";
        else if (hd.buffered - at < head + size) break;
        else if (head == HEADER_V2) {
            if (strncasecmp((const char *)data + 12, "PING", 5))
                why = "wrong-generation: of v2, only PING is answered";
            else pong(load(data + 44));
        } else {
            int type = data[12] << 8 | data[13];
            why = handle(type, load(data + 16), data + HEADER, size);
            if (why)
                snprintf(problem, sizeof problem, "bad-payload: v3 type %d: %s", type, why), why = problem;
        }
        if (!why) at += head + size;
    }
    memmove(hd.input, hd.input + at, hd.buffered - at);
    hd.buffered -= at;
    return why;
}

/* What was read before, and now if there is something to read. */
static void hear(int readable)
{
    ssize_t got = readable ? read(hd.in_fd, hd.input + hd.buffered, sizeof hd.input - hd.buffered) : 0;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got < 0) complain(0, "cannot read from the server: %s", strerror(errno));
    if (readable && got <= 0) { /* it has closed our input */
        hd.listening = 0;
        end(NULL, 0);
        return;
    }
    hd.buffered += (size_t)got;
    const char *why = frames();
    if (!why) return;
    hd.listening = 0;
    complain(0, "%s", why);
    end(NULL, 1);
}

/* The main loop */

static void on_signal(int number)
{
    int before = errno;
    signalled = number;
    if (wake_fd >= 0) {
        ssize_t ignored = write(wake_fd, "w", 1);
        (void)ignored;
    }
    errno = before;
}

static void set_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGINT);
    sigprocmask(SIG_UNBLOCK, &action.sa_mask, NULL); /* `again` has blocked them */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

/* Whether nothing is left to do. */
static int over(void)
{
    lock();
    double rest = hd.end_by > 0 ? hd.end_by - monotonic() : STOP_GRACE_S + GRACE_S;
    int last = hd.ending && !(hd.working && rest > GRACE_S);
    const char *farewell = hd.offered ? hd.farewell : NULL;
    if (last) hd.farewell = NULL;
    unlock();
    if (!last) return 0;
    if (farewell) send_map(SHUTDOWN, 1, -1, "s", 1, farewell);
    lock();
    seal();
    drain();
    int done = hd.broken || rest <= 0 || !hd.queued;
    unlock();
    return done;
}

static int timeout_ms(void) /* locked */
{
    double now = monotonic(), until = now + 60;
    if (!hd.helperd && hd.ping_at + WATCHDOG_S < until) until = hd.ping_at + WATCHDOG_S;
    if (hd.end_by > 0) until = hd.working && now < hd.end_by - GRACE_S ? hd.end_by - GRACE_S : hd.end_by;
    if (hd.packets && !hd.queued && now + TICK_S < until) until = now + TICK_S;
    return until <= now ? 0 : (int)((until - now) * 1000) + 1;
}

static void turn(void)
{
    char dust[256];
    lock();
    int reads = hd.listening && room() >= RESERVE;
    hd.polls_out = hd.queued > 0;
    hd.idle = !hd.packets && !hd.queued;
    struct pollfd on[3] = {
        {hd.wake[0], POLLIN, 0}, {hd.out_fd, hd.polls_out ? POLLOUT : 0, 0}, {hd.in_fd, POLLIN, 0}};
    int late = hd.packets && !hd.queued, wait_ms = timeout_ms();
    unlock();
    if (poll(on, reads ? 3 : 2, wait_ms) < 0) on[0].revents = on[1].revents = on[2].revents = 0;
    if (on[0].revents & POLLIN && read(hd.wake[0], dust, sizeof dust) < 0 && errno != EAGAIN) hd.broken = 1;
    lock();
    hd.polls_out = 0;
    if (on[1].revents & (POLLERR | (hd.in_fd == hd.out_fd ? 0 : POLLHUP))) hd.broken = 1;
    if (late && hd.packets && !hd.queued) {
        seal();
        hd.sealed_at = monotonic();
    }
    drain();
    int broken = hd.broken, silent = !hd.helperd && monotonic() - hd.ping_at > WATCHDOG_S;
    unlock();
    if (broken) end(NULL, 0);
    if (signalled) end(signalled == SIGINT ? "asked to end by SIGINT" : "asked to end by SIGTERM", 0);
    if (silent) end("no PING for 15 s", 0);
    if (hd.listening) hear(reads && on[2].revents);
}

static int start(void)
{
    pthread_condattr_t attributes;
    hd.allocated = hd.helper->ring > RING ? hd.helper->ring : RING;
    hd.capacity = hd.helper->ring > RING ? hd.allocated : SMALL_RING;
    hd.ring = malloc(hd.allocated);
    if (!hd.ring || pipe(hd.wake) || pipe(hd.stop)) return complain(-1, "cannot start: %s", strerror(errno));
    const int ends[] = {hd.wake[0], hd.wake[1], hd.stop[1], hd.in_fd, hd.out_fd};
    for (size_t at = 0; at < LENGTH(ends); at++)
        fcntl(ends[at], F_SETFL, fcntl(ends[at], F_GETFL) | O_NONBLOCK);
    wake_fd = hd.wake[1];
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&hd.changed, &attributes);
    hd.listening = 1;
    hd.ping_at = monotonic();
    return 0;
}

static int serve(void)
{
    while (!over()) turn();
    lock();
    hd.stopping = 1;
    pthread_cond_broadcast(&hd.changed);
    int working = hd.working;
    unlock();
    if (hd.job_made && !working) pthread_join(hd.job, NULL);
    return hd.status;
}

/* The command line */

enum { IN_FD, OUT_FD, LIST, VERSION, HELP, CONNECT, SOURCE, NO_RETRY, FIXED_GPS, GPS_NAME, TCP, HOST, FLAGS };
static const struct { const char *name, *value, *meaning; } FLAG[FLAGS] = {
    [IN_FD] = {"--in-fd", "N", "descriptor to read the server's frames from"},
    [OUT_FD] = {"--out-fd", "N", "descriptor to write frames to"},
    [LIST] = {"--list", "", "print the devices, one a line; status 1 when there is none"},
    [VERSION] = {"--version", "", "print the version"},
    [HELP] = {"--help", "", "print this"},
    [CONNECT] = {"--connect", "HOST:PORT", "remote capture: the server to dial, by plain TCP (also: --host)"},
    [SOURCE] = {"--source", "DEFINITION", "what to capture from then"},
    [NO_RETRY] = {"--disable-retry", "", "dial once, not again every 5 s"},
    [FIXED_GPS] = {"--fixed-gps", "LAT,LON[,ALT]", "where this sensor stands, in degrees and metres"},
    [GPS_NAME] = {"--gps-name", "NAME", "what this place is called"},
    [TCP] = {"--tcp", "", "understood, and always so"},
    [HOST] = {"--host", "HOST:PORT", NULL}};

#define REMOTE "Remote capture is by plain TCP only, to the server of --connect, without login, in foreground"

static int help(void)
{
    const hd_option *option = hd.helper->options;
    char left[64];
    printf("%s: %s\n\nStarted by helperd or a Kismet server: --in-fd=N --out-fd=N\n\n", hd.helper->type,
           has(hd.helper->summary) ? hd.helper->summary : "a capture helper");
    for (int at = 0; at < FLAGS && FLAG[at].meaning; at++) {
        snprintf(left, sizeof left, "%s%s%s", FLAG[at].name, *FLAG[at].value ? "=" : "", FLAG[at].value);
        printf("  %-27s  %s\n", left, FLAG[at].meaning);
    }
    if (option && option->name) printf("\nOptions of a definition:\n\n");
    for (; option && option->name; option++) printf("  %-12s  %s\n", option->name, option->meaning);
    return 0;
}

static int descriptor(int flag, const char *value, int *to)
{
    char *after;
    errno = 0;
    long number = strtol(value, &after, 10);
    if (*after || number < 0 || number > 1 << 20 || errno)
        return complain(USAGE, "%s takes the number of a file descriptor, not '%s'", FLAG[flag].name, value);
    *to = (int)number;
    if (fcntl(*to, F_SETFD, FD_CLOEXEC))
        return complain(USAGE, "%s=%s: %s", FLAG[flag].name, value, strerror(errno));
    return 0;
}

/* The command line, into `given`: NULL, the value, or "" for flags that have none. 0, or the status. */
static int parse(int argc, char **argv, const char *given[FLAGS])
{
    for (int at = 1; at < argc; at++) {
        size_t size = strcspn(argv[at], "=");
        const char *value = argv[at][size] ? argv[at] + size + 1 : NULL;
        int flag = 0;
        if (!strcmp(argv[at], "--")) continue;
        while (flag < FLAGS && (strncmp(FLAG[flag].name, argv[at], size) || FLAG[flag].name[size])) flag++;
        if (flag == FLAGS || (value && !*FLAG[flag].value))
            return complain(USAGE, "unknown option '%s'; try --help. " REMOTE, argv[at]);
        if (!value && *FLAG[flag].value && at + 1 < argc) value = argv[++at];
        if (*FLAG[flag].value && !has(value))
            return complain(USAGE, "%s needs a value; try --help", FLAG[flag].name);
        given[flag == HOST ? CONNECT : flag] = value ? value : "";
    }
    return 0;
}

/* Remote capture */

static int fixed_gps(const char *text, const char *name)
{
    hd_position *to = &hd.position;
    int used = 0;
    int fields = sscanf(text, "%lf,%lf%n,%lf%n", &to->latitude, &to->longitude, &used, &to->altitude, &used);
    if (fields < 2 || text[used] || !(to->latitude >= -90 && to->latitude <= 90) ||
        !(to->longitude >= -180 && to->longitude <= 180))
        return complain(USAGE, "--fixed-gps=%s: write latitude,longitude or latitude,longitude,altitude "
                        "in degrees and metres", text);
    to->fix = fields;
    to->type = "remote-fixed";
    to->name = name ? name : to->type;
    hd.has_position = 1;
    return 0;
}

/* A connection, or -1 (told). */
static int dial(const char *to, const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    struct timeval patience = {CONNECT_S, 0};
    int fd = -1, on = 1, error = getaddrinfo(host, port, &hints, &found);
    if (error) return complain(-1, "%s: %s", to, gai_strerror(error));
    for (struct addrinfo *one = found; one && fd < 0 && !signalled; one = one->ai_next) {
        fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
            connect(fd, one->ai_addr, one->ai_addrlen) == 0)
            break;
        error = errno == EINPROGRESS ? ETIMEDOUT : errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    if (fd < 0) return complain(-1, "cannot reach %s: %s", to, strerror(error));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return fd;
}

/* Dial, say what we are, and be a helper on that connection. */
static int remote(const char *to, const char *source)
{
    char host[256], uuid[64];
    const char *colon = strrchr(to, ':');
    hd_device device = {0};
    if (!colon || colon == to || !colon[1] || colon - to >= (ptrdiff_t)sizeof host)
        return complain(USAGE, "--connect=%s: write HOST:PORT, such as 10.8.0.1:3501 or [fd00::1]:3501", to);
    int mine = read_definition(&hd.definition, source, strlen(source), 0) ? -1 : probe(&device);
    if (mine < 1)
        return complain(1, "--source=%s: %s", source,
                        mine < 0 ? hd.failure.text : "not for this helper; does it have the right type=?");
    int bracketed = *to == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(colon - to) - 2 * bracketed, to + bracketed);
    hd.in_fd = hd.out_fd = dial(to, host, colon + 1);
    if (hd.in_fd < 0) return UNAVAILABLE;
    if (start()) return 1;
    send_map(NEWSOURCE, 0, -1, "sss", 1, source, 2, hd.helper->type, 3,
             uuid_of(&hd.definition, device.uuid, uuid));
    return serve();
}

/* Begin anew after a while, with nothing left of the connection before: the same program in the same process.
 * Signals are kept from here until there is somebody to hear them. */
static int again(char **argv)
{
    sigset_t ends, before;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, &before);
    if (signalled) return 0;
    complain(0, "dials again in %d s", RETRY_S);
    if (pselect(0, NULL, NULL, NULL, &(struct timespec){RETRY_S, 0}, &before) < 0 && signalled) return 0;
    for (int fd = 3; fd < sysconf(_SC_OPEN_MAX) && fd < 65536; fd++) close(fd);
    execvp(argv[0], argv);
    return complain(UNAVAILABLE, "cannot start %s again: %s", argv[0], strerror(errno));
}

static int print_list(void)
{
    hd_list devices = {NULL, 0, 0};
    if (hd.helper->list && hd.helper->list(&devices) < 0) return complain(1, "%s", hd.failure.text);
    return devices.count ? 0 : 1;
}

int hd_run(int argc, char **argv, const hd_helper *helper)
{
    const char *given[FLAGS] = {NULL};
    hd.helper = helper;
    hd.in_fd = hd.out_fd = hd.stop[0] = hd.dlt = hd.number = -1;
    hd.main = pthread_self();
    pthread_mutex_init(&hd.lock, NULL);
    pthread_key_create(&hd.own_failure, NULL);
    if (!helper->type || !helper->open || !helper->capture) {
        fprintf(stderr, "helper: a table needs type, open and capture\n");
        return USAGE;
    }
    int status = parse(argc, argv, given);
    if (status) return status;
    if (given[HELP]) return help();
    if (given[VERSION]) return printf("%s %s\n", helper->type, version()) < 0;
    if (given[LIST]) return print_list();
    if (given[CONNECT] && !given[SOURCE])
        return complain(USAGE, "--connect needs --source=DEFINITION: what to capture from");
    if (!given[CONNECT] && !(given[IN_FD] && given[OUT_FD]))
        return complain(USAGE,
                        "--in-fd and --out-fd must be given: helperd or a Kismet server starts a helper; "
                        "try --help");
    if (given[FIXED_GPS]) status = fixed_gps(given[FIXED_GPS], given[GPS_NAME]);
    if (status) return status;
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    prctl(PR_SET_DUMPABLE, 0); /* its memory, where packets are, is nobody else's, whoever has its uid */
#endif
    set_signals();
    if (given[CONNECT]) {
        status = remote(given[CONNECT], given[SOURCE]);
        if (!given[NO_RETRY] && status != USAGE) status = again(argv);
    } else {
        status = descriptor(IN_FD, given[IN_FD], &hd.in_fd);
        if (!status) status = descriptor(OUT_FD, given[OUT_FD], &hd.out_fd);
        if (!status) status = start() ? 1 : serve();
    }
    if (!hd.working) fflush(NULL);
    if (hd.working || hd.tuning) _exit(status); /* a thread still waits for its device; nobody waits for it */
    return status;
}
