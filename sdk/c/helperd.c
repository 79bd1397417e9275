/* SPDX-License-Identifier: Apache-2.0
 *
 * The capture framework behind helperd.h: protocol v3 of Kismet's helpers, helper side, and helperd's bulk
 * extension. Source of facts: docs/protocol.md.
 *
 *     capture thread: hd_packet --> batch --> ring --> the server
 *     channel thread: channel_set, hop
 *     main thread:    requests, PING, and what the ring still holds
 *
 * Rules:
 *   1. One lock guards everything. Each thread holds it, but not while it waits, nor while a function of the
 *      author runs (AUTHOR); what authors call takes it (GUARD).
 *   2. The ring holds whole frames. Room for answers is kept free in it, so that the main thread never waits.
 *   3. No allocation but the ring, at the start.
 *   4. Nothing from the server is believed: every read of a payload is checked against its end.
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
#include <sys/time.h>
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
    REGISTER = 1, PING = 2, PONG = 3, SHUTDOWN = 4, MESSAGE = 5, ERROR = 6, PROBEREQ = 10, OPENREQ = 12,
    LISTREQ = 14, PACKET = 16, CONFIGREQ = 17, CONFIGREPORT = 18, NEWSOURCE = 19, BULK = 0x4844, COUNT = 0x4845
};
enum {
    HEADER = 20, HEADER_V2 = 48,
    REPORT = 16383, LONG_REPORT = 5 * REPORT, /* bytes of a frame that Kismet's 2025 server, helperd take */
    INPUT = 65536, MAX_BLOCK = 262144, /* bytes of a frame that we take; of a block that dumpcap does */
    BATCH = 32 << 10, RUNS = 512,    /* bytes of a bulk frame's blocks, unless one is longer; index entries */
    RING = 320 << 10, SMALL_RING = 112 << 10, /* small until a packet comes that needs more: fewer pages */
    RESERVE = 20 << 10,              /* bytes of the ring, for answers */
    OPTIONS_ROOM = 600, TEXT = 1024, /* bytes of a block's options, of a message */
    AROUND = 1536,                   /* bytes around a packet: headers, radio, position, index */
    OPTIONS = 128, CHANNELS = 1024, NAME = 64, ORDERS = 8, USAGE = 64, UNAVAILABLE = 69,
    WATCHDOG_S = 15, NUMBER_S = 2, RETRY_S = 5, CONNECT_S = 10
};
enum { RATE, SHUFFLE, SKIP, OFFSET, SETTINGS }; /* of a hop list */
static const double STOP_GRACE_S = 0.5, GRACE_S = 0.5, TICK_S = 0.002, SHORTEST_HOP_S = 0.05;
static const hd_device NOTHING = {.dlt = -1};

struct out { unsigned char *data; size_t size, room; int full, numbered; }; /* full: something did not fit */
struct failure { char problem[32], text[TEXT]; };
struct hd_list { struct out out; size_t count, left_out; unsigned char data[REPORT - 1024]; };
struct hd_definition {
    char text[8192];
    const char *interface;
    int options, loose;              /* loose: a Kismet server made it; what is odd is told, not refused */
    struct { const char *key; char *value; } option[OPTIONS];
};
/* A hop list and how to walk it, or one channel to stay on (fixed); none: no channels. An order of the server
 * too: `said` has a bit for each setting that it names. Behind `channels` nothing is touched, nor copied. */
struct plan {
    uint32_t request, said;
    int fixed, channels, place;
    double setting[SETTINGS];
    struct failure failure;          /* of the last channel that could not be tuned */
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
    size_t allocated, capacity, head, queued, batched; /* bytes of the ring, in the ring, in the batch */
    int waiting, polls_out, idle, broken; /* broken: nobody reads what we write */
    uint32_t packets, runs, run_length, run_count; /* of the batch */
    double sealed_at, ping_at, end_by;
    int helperd, offered, opened, working, job_made, tuning, listening, ending, stopping, status;
    const char *farewell;
    int asked;                       /* PROBEREQ, OPENREQ or LISTREQ: the one job of this process */
    uint32_t seqno, asked_seqno;
    int dlt, numbered, number;       /* number: helperd's, for blocks of this link type; -1: it gives none */
    struct failure failure, tune_failure;
    char reason[TEXT], line[2 * TEXT];
    int has_radio, has_position;
    hd_radio radio;
    hd_position position;
    uint64_t heard_ns, refused, refused_told, cut;
    int first_order, orders, works;  /* works: a channel of the plan could be tuned */
    size_t buffered;
    /* What is large comes last, and is not touched before it is used. */
    unsigned char index[HEADER + 8 + 8 * RUNS]; /* of the batch, behind room for its frame's header */
    hd_definition definition;
    hd_list list;
    unsigned char input[INPUT], batch[MAX_BLOCK];
    struct plan plan, before, order[ORDERS + 1];
} hd;
static volatile sig_atomic_t signalled, wake_fd = -1;

/* Small things */

static void lock(void) { pthread_mutex_lock(&hd.lock); }
static void unlock(void) { pthread_mutex_unlock(&hd.lock); }
static int locked(int result) { return lock(), result; }
static int unlocked(int result) { return unlock(), result; }
#define AUTHOR(call) (unlock(), locked(call))
#define GUARD(call) (lock(), unlocked(call))
static int gone(void) { return hd.stopping || hd.broken; }
static int has(const char *text) { return text != NULL && *text != '\0'; }

/* What a function like printf was given, as text behind `used` bytes. */
#define PRINT_WORDS(to, used, room, format)                       \
    do {                                                          \
        va_list words;                                            \
        va_start(words, format);                                  \
        vsnprintf((to) + (used), (room) - (used), format, words); \
        va_end(words);                                            \
    } while (0)

/* More text behind what is there, as much as fits. */
HD_PRINTF(3, 4) static void append(char *to, size_t room, const char *format, ...) {
    PRINT_WORDS(to, strlen(to), room, format);
}
/* A text that is used at once; a line on standard error, told with a status. */
#define TEXT_OF(...) (snprintf(hd.line, sizeof hd.line, __VA_ARGS__), hd.line)
#define complain(status, ...) complain_of((status), TEXT_OF(__VA_ARGS__))
static int complain_of(int status, const char *text) {
    return fprintf(stderr, "%s: %s\n", hd.helper->type, text), status;
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
static double monotonic(void) { return (double)clock_ns(CLOCK_MONOTONIC) * 1e-9; }

/* Wait for `changed`, until a moment unless that is 0, or beyond any clock here (a hop in 10^300 s). */
static void wait_changed(double until) {
    if (!(until > 0 && until < 0x7FFFFFFF)) {
        pthread_cond_wait(&hd.changed, &hd.lock);
        return;
    }
    struct timespec at = {(time_t)until, (long)((until - (double)(time_t)until) * 1e9)};
    pthread_cond_timedwait(&hd.changed, &hd.lock, &at);
}
/* Make a pipe readable; a full one is. */
static void poke(int fd) { if (write(fd, "w", 1) < 0) return; }
static void wake(void) { poke(hd.wake[1]); }

static uint32_t load(const unsigned char *from) { /* big-endian */
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}
static void store(unsigned char *to, uint32_t value) {
    for (int at = 3; at >= 0; at--, value >>= 8) to[at] = (unsigned char)value;
}
static void store_little(unsigned char *to, uint32_t value) {
    for (int at = 0; at < 4; at++, value >>= 8) to[at] = (unsigned char)value;
}

/* Writing msgpack */

static void put(struct out *out, const void *data, size_t size) {
    out->full |= size > out->room - out->size;
    if (out->full) return;
    memcpy(out->data + out->size, data, size);
    out->size += size;
}
static void put_big(struct out *out, uint64_t value, int bytes) {
    while (bytes-- > 0) put(out, &(unsigned char){(unsigned char)(value >> 8 * bytes)}, 1);
}
/* A code of msgpack, and the number behind it. */
static void put_code(struct out *out, int code, uint64_t value, int bytes) {
    put_big(out, (uint64_t)code, 1);
    put_big(out, value, bytes);
}
static void put_uint(struct out *out, uint64_t value) {
    if (value < 0x80) put_big(out, value, 1);
    else if (value <= 0xFFFFFFFF) put_code(out, 0xCE, value, 4);
    else put_code(out, 0xCF, value, 8);
}
static uint64_t bits_of(double real) { return (union { double real; uint64_t bits; }){real}.bits; }
static int put_text(struct out *out, const char *text) { /* whether there is one */
    size_t size = text ? strlen(text) : 0;
    if (size < 32) put_big(out, 0xA0 | size, 1);
    else put_code(out, 0xDB, size, 4);
    put(out, text ? text : "", size);
    return size > 0;
}
static int put_texts(struct out *out, const char *const *texts) { /* whether there are any before the NULL */
    size_t count = 0;
    while (texts && texts[count]) count++;
    out->full |= count > 0xFFFF;
    put_code(out, 0xDC, count, 2);
    for (size_t at = 0; at < count; at++) put_text(out, texts[at]);
    return count > 0;
}

/* A map of integer keys. `form` has two characters for each pair, the key and what the value is. u: uint64_t;
 * h, w: uint64_t in 2 or 4 bytes whatever its value; b: truth (int); d: double; v: none, the caller writes it
 * behind; and what is left out when it is 0, empty or (i) negative: z: uint64_t; i: int; s: text; l: texts
 * before a NULL; f: a put_function and what it shall write. \100 (64) is the problem word of a report. */
typedef void put_function(struct out *, const void *);
static void pack_list(struct out *out, const char *form, va_list values) {
    size_t head = out->size, pairs = 0;
    put_big(out, 0, 1);
    for (; *form; form += 2) {
        size_t before = out->size;
        int given = 1;
        put_uint(out, (uint64_t)form[0]);
        switch (form[1]) {
        case 'v': break;
        case 'b': put_big(out, va_arg(values, int) ? 0xC3 : 0xC2, 1); break;
        case 'h': put_code(out, 0xCD, va_arg(values, uint64_t), 2); break;
        case 'w': put_code(out, 0xCE, va_arg(values, uint64_t), 4); break;
        case 's': given = put_text(out, va_arg(values, const char *)); break;
        case 'l': given = put_texts(out, va_arg(values, const char *const *)); break;
        case 'd': put_code(out, 0xCB, bits_of(va_arg(values, double)), 8); break;
        case 'f': {
            put_function *function = va_arg(values, put_function *);
            const void *what = va_arg(values, const void *);
            if ((given = what != NULL)) function(out, what);
            break;
        }
        default: {
            int64_t number = form[1] == 'i' ? va_arg(values, int) : (int64_t)va_arg(values, uint64_t);
            given = form[1] == 'u' || (form[1] == 'i' ? number >= 0 : number != 0);
            put_uint(out, (uint64_t)number);
        }
        }
        if (given) pairs++;
        else out->size = before;
    }
    if (!out->full) out->data[head] = (unsigned char)(0x80 | pairs);
}
static void pack(struct out *out, const char *form, ...) {
    va_list values;
    va_start(values, form);
    pack_list(out, form, values);
    va_end(values);
}

/* Begin a frame. request: the number of what it answers; -1: one of our own, given when it is queued. */
static struct out frame(unsigned char *data, size_t room, int type, int code, int64_t request) {
    struct out out = {data, 0, room, 0, request >= 0};
    put(&out, "\xDE\xCA\xFB\xAD\xA9\xA9\0\3\0\0\0\0", 12);
    put_big(&out, (uint64_t)type << 16 | (uint64_t)code, 4);
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
    struct in where;                 /* of what `unpack` has found: before its head */
};

static int take(struct in *in, size_t bytes, uint64_t *value) {
    if ((size_t)(in->end - in->at) < bytes) return -1;
    for (*value = 0; bytes > 0; bytes--) *value = *value << 8 | *in->at++;
    return 0;
}

/* The next value; of an array or map only the head. */
static int next_value(struct in *in, struct value *to) {
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
    }
    uint32_t bits = (uint32_t)to->number;
    float real = 0;
    if (code == 0xCA) memcpy(&real, &bits, 4);
    to->real = code == 0xCA ? (double)real : (double)to->number;
    if (code == 0xCB) memcpy(&to->real, &to->number, 8);
    if (to->kind != 's' && to->kind != 'x') return 0;
    if (to->number > (uint64_t)(in->end - in->at)) return -1;
    to->text = (const char *)in->at;
    in->at += to->number;
    return 0;
}

/* Read a map for the keys and kinds in `form`, as pack's (' ': any kind); their values go to `values`. A bit
 * for each that is there; -1: it is no map, one is not of its kind or there twice, or what is no msgpack. */
static int unpack(struct in map, const char *form, struct value *values) {
    struct value pairs, one;
    int found = 0, at;
    if (next_value(&map, &pairs) || pairs.kind != 'm') return -1;
    for (; pairs.number > 0; pairs.number--) {
        if (next_value(&map, &one) || one.kind != 'u') return -1;
        for (at = 0; form[2 * at] && (uint64_t)form[2 * at] != one.number; at++) continue;
        char kind = form[2 * at] ? form[2 * at + 1] : ' ';
        struct in where = map;
        for (uint64_t left = 1, first = 1; left > 0; left--, first = 0) { /* all of it, however deep */
            if (next_value(&map, &one)) return -1;
            if (first && kind != ' ' && one.kind != kind && !(kind == 'f' && one.kind == 'u')) return -1;
            if (first && form[2 * at]) {
                if (found >> at & 1) return -1;
                found |= 1 << at, values[at] = one, values[at].where = where;
            }
            if (one.kind == 'a' || one.kind == 'm') left += one.kind == 'm' ? 2 * one.number : one.number;
        }
    }
    return found;
}

/* The ring */

/* Bytes that are free, beside those that the batch will take. */
static size_t room(void) {
    return hd.capacity - hd.queued - (hd.packets ? HEADER + 8 + 8 * (size_t)hd.runs + hd.batched : 0);
}

static void queue(const void *data, size_t size) {
    size_t tail = (hd.head + hd.queued) % hd.capacity, first = hd.capacity - tail;
    if (first > size) first = size;
    if (size) memcpy(hd.ring + tail, data, first);
    if (size > first) memcpy(hd.ring, (const unsigned char *)data + first, size - first);
    hd.queued += size;
}

/* Write what the server takes now. */
static void drain(void) {
    while (hd.queued > 0 && !hd.broken) {
        size_t first = hd.capacity - hd.head < hd.queued ? hd.capacity - hd.head : hd.queued;
        struct iovec parts[2] = {{hd.ring + hd.head, first}, {hd.ring, hd.queued - first}};
        ssize_t wrote = writev(hd.out_fd, parts, parts[1].iov_len ? 2 : 1);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (wrote < 0) hd.broken = 1;
        else hd.queued -= (size_t)wrote;
        hd.head = hd.queued ? (hd.head + (size_t)wrote) % hd.capacity : 0; /* empty: anew, for fewer pages */
    }
    if (hd.broken) {
        hd.head = hd.queued = hd.batched = hd.packets = hd.runs = 0;
        wake();
    }
    if (hd.waiting && hd.queued <= hd.capacity / 4) pthread_cond_broadcast(&hd.changed);
}
/* Let what is queued leave: now what the server takes, the rest by the main thread. */
static void push(void) {
    if (hd.polls_out) return; /* it waits for that already */
    drain();
    if (hd.queued > 0) wake();
}

/* Queue a frame, and `data` behind it, after the batch that was begun before it; there is room for both. */
static void queue_frame(struct out *out, const void *data, size_t size) {
    if (hd.packets) {
        struct out batch = frame(hd.index, sizeof hd.index, BULK, 0, -1);
        batch.size += 8 + 8 * hd.runs;
        store_little(hd.index + HEADER, hd.packets);
        store_little(hd.index + HEADER + 4, hd.runs);
        size_t batched = hd.batched;
        hd.batched = hd.packets = hd.runs = 0;
        queue_frame(&batch, hd.batch, batched);
    }
    if (!out) return;
    store(out->data + 8, (uint32_t)(out->size + size - HEADER));
    if (!out->numbered && ++hd.seqno == 0) hd.seqno = 1;
    if (!out->numbered) store(out->data + 16, hd.seqno);
    queue(out->data, out->size);
    queue(data, size);
}
static void seal(void) { queue_frame(NULL, NULL, 0); }

static void send_batch(void) { seal(), hd.sealed_at = monotonic(), push(); }
/* Something was queued or put into the batch: send it at once when rare or much, else within a tick. */
static void nudge(int much) {
    if (much || monotonic() - hd.sealed_at > TICK_S) send_batch();
    else if (hd.idle) hd.idle = 0, wake();
}

/* Have so many bytes free beside the reserve. 0; 1: not now, if it may not wait; -1: the helper shall end. */
static int make_room(size_t need, int wait) {
    while (!gone()) {
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

/* Send a frame whose payload is a map (see pack_list). The main thread never waits, others may. 0; 1: too
 * long for the peer; -1: the helper shall end. */
static int send_map(int type, int code, int64_t request, const char *form, ...) {
    unsigned char data[LONG_REPORT];
    struct out out = frame(data, hd.helperd ? sizeof data : REPORT, type, code, request);
    va_list values;
    va_start(values, form);
    pack_list(&out, form, values);
    va_end(values);
    if (out.full) return 1;
    int result = pthread_equal(pthread_self(), hd.main) ? 0 : make_room(out.size, 1);
    if (hd.broken || room() < out.size) return -1;
    queue_frame(&out, NULL, 0); /* also when it shall end: the last words */
    push();
    return result;
}

/* The end */

/* End because the work is done: everything leaves first, however long the server takes to read it. */
static void finish(int status) { hd.ending = 1, hd.status = hd.status ? hd.status : status, wake(); }
/* End because somebody wants it: the capture must return, the rest leaves within a bounded time. farewell:
 * what the server is told; NULL: it knows, or is gone. */
static void end(const char *farewell, int status) {
    if (hd.end_by > 0) return;
    finish(status);
    hd.stopping = 1, hd.farewell = farewell;
    hd.end_by = monotonic() + STOP_GRACE_S + GRACE_S;
    poke(hd.stop[1]);
    pthread_cond_broadcast(&hd.changed);
}
int hd_stopping(void) { return GUARD(gone()); }
int hd_stop_fd(void) { return hd.stop[0]; }

/* Reasons and messages */

/* The failure of this thread's callbacks. */
static struct failure *why(void) {
    struct failure *own = pthread_getspecific(hd.own_failure);
    return own ? own : &hd.failure;
}

int hd_refuse(const char *problem, const char *format, ...) {
    snprintf(why()->problem, sizeof why()->problem, "%s", problem ? problem : "");
    PRINT_WORDS(why()->text, 0, sizeof why()->text, format);
    return -1;
}

int hd_refuse_errno(int number, const char *what) {
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

int hd_end(const char *format, ...) {
    PRINT_WORDS(hd.reason, 0, sizeof hd.reason, format);
    return 0;
}

/* Show a line to the user. */
static void tell(int severity, const char *text) {
    if (hd.out_fd < 0) complain_of(0, text);
    else send_map(MESSAGE, 0, -1, "\1u\2s", (uint64_t)severity, has(text) ? text : " ");
}
void hd_message(int severity, const char *format, ...) {
    lock();
    PRINT_WORDS(hd.line, 0, sizeof hd.line, format);
    tell(severity, hd.line);
    unlock();
}

/* Definitions */

/* Options that every definition may have. A server may have cut the value of a list to its first word. */
static const char LISTS[] = ",name,channels,add_channels,block_channels,info_antenna_type,info_amp_type,";
static const char WORDS[] = ",type,uuid,retry,timestamp,channel,channel_hop,channel_hoprate,metagps,info_amp_gain,"
                            "info_antenna_gain,info_antenna_orientation,info_antenna_beamwidth,";
static int is_among(const char *words, const char *key) {
    char word[64];
    return snprintf(word, sizeof word, ",%s,", key) < (int)sizeof word && strstr(words, word) != NULL;
}
static int is_own(const char *key) {
    const hd_option *own = hd.helper->options;
    while (own && own->name && strcmp(own->name, key)) own++;
    return own && own->name;
}
static int index_of(const hd_definition *definition, const char *key) {
    int at = 0;
    while (at < definition->options && strcmp(definition->option[at].key, key)) at++;
    return at;
}

const char *hd_interface(const hd_definition *definition) { return definition->interface; }
const char *hd_get(const hd_definition *definition, const char *key) {
    int at = index_of(definition, key);
    return at < definition->options ? definition->option[at].value : NULL;
}
int hd_number(const hd_definition *definition, const char *key, long least, long most, long *value) {
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
int hd_flag(const hd_definition *definition, const char *key, int otherwise) {
    const char *text = hd_get(definition, key);
    if (text && (!strcasecmp(text, "true") || !strcasecmp(text, "t"))) return 1;
    if (text && (!strcasecmp(text, "false") || !strcasecmp(text, "f"))) return 0;
    return otherwise;
}

static char *strip(char *text) {
    while (isspace((unsigned char)*text)) text++;
    for (size_t size = strlen(text); size > 0 && isspace((unsigned char)text[size - 1]);) text[--size] = '\0';
    return text;
}
static char *unquote(char *text) {
    char *to = text;
    for (const char *from = text; *from; from++)
        if (*from != '"') *to++ = *from;
    *to = '\0';
    return strip(text);
}
/* Cut a text at the next `end`; what is in quotes ends nothing, if they count. Returns the rest, or NULL. */
static char *cut(char *text, char end, int quotes) {
    for (int quoted = 0; *text && (quoted || *text != end); text++) quoted ^= quotes && *text == '"';
    if (!*text) return NULL;
    *text = '\0';
    return text + 1;
}
static int bad_definition(const char *text, const char *reason) {
    return hd_refuse("bad-definition", "'%.400s': %s; write interface:key=value,key=value", text, reason);
}

/* The interface; in quotes it may have any character, "" for a quote. 0, or -1: refused. */
static int read_interface(hd_definition *to, char *name) {
    size_t size = strlen(name);
    to->interface = name;
    if (!*name) return bad_definition(name, "the interface is missing");
    if (*name != '"')
        return !to->loose && strchr(name, ',') ? bad_definition(name, "a comma before the first colon") : 0;
    if (size < 3 || name[size - 1] != '"')
        return bad_definition(name, "a quoted interface ends with a quote and a colon");
    name[size - 1] = '\0';
    to->interface = ++name;
    for (const char *from = name; *from; *name++ = *from++) from += from[0] == '"' && from[1] == '"';
    *name = '\0';
    return 0;
}

/* Read a definition: strictly from helperd, and from a Kismet server whatever it has made of it (quotes gone,
 * a list cut to its first word, options twice: the first counts). 0, or -1: refused. */
static int read_definition(hd_definition *to, const char *text, size_t size, int loose) {
    char *next, *last = NULL; /* last: the value that a word without key= belongs to */
    int quotes = 0, stray = 0, twice = 0, shown = (int)(size < 400 ? size : 400);
    if (size >= sizeof to->text)
        return hd_refuse("bad-definition", "a definition of %lu bytes is too long", (unsigned long)size);
    memcpy(to->text, text, size);
    to->text[size] = '\0';
    to->options = 0, to->loose = loose;
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
            if (*part && !last && !loose) return bad_definition(part, "not key=value");
            stray += *part && !last;
            if (!*part || !last) continue;
            last += strlen(last);
            memmove(last + 1, part, strlen(part) + 1);
            *last = ',';
            continue;
        }
        *value++ = '\0';
        value = unquote(value);
        char *key = strip(part);
        for (char *at = key; *at; at++) *at = (char)tolower((unsigned char)*at);
        if (!loose && (!*key || strchr(key, ':'))) return bad_definition(key, "no key");
        int number = index_of(to, key), new = number == to->options;
        if (number == OPTIONS) return bad_definition(to->interface, "too many options");
        to->options += new, twice += !new && loose;
        if (new) to->option[number].key = key;
        if (new || !loose) to->option[number].value = value;
        last = !loose || (new && (is_own(key) || is_among(LISTS, key))) ? value : NULL;
    }
    if (stray)
        tell(HD_ERROR, TEXT_OF("%d words that belong to no option are left out, perhaps the end of a list "
                               "(in %.*s)", stray, shown, text));
    if (twice) tell(HD_ERROR, TEXT_OF("an option is given twice, the first counts (in %.*s)", shown, text));
    return 0;
}

/* Refuse another helper's type, and options nobody knows; leave out and tell what a Kismet server may have
 * made up. */
static int check_options(hd_definition *definition) {
    const char *type = hd_get(definition, "type"), *own_type = hd.helper->type;
    char known[512] = "";
    int kept = 0;
    if (type && !hd.helper->probe && strcasecmp(type, own_type)) /* who has a probe may serve several */
        return hd_refuse("bad-definition", "type=%s is not for this helper; write type=%s", type, own_type);
    for (const hd_option *own = hd.helper->options; own && own->name; own++)
        append(known, sizeof known, "%s%s", *known ? ", " : "", own->name);
    for (int at = 0; at < definition->options; at++) {
        const char *key = definition->option[at].key;
        if (is_own(key) || is_among(LISTS, key) || is_among(WORDS, key)) {
            definition->option[kept++] = definition->option[at];
            continue;
        }
        hd_refuse("bad-definition", "%s has no option '%.100s'; it knows %s", own_type, key,
                  *known ? known : "none of its own");
        if (!definition->loose) return -1;
        tell(HD_ERROR, why()->text);
    }
    definition->options = kept;
    return 0;
}

static uint32_t checksum(const char *text) {
    uint32_t one = 0, two = 0;
    for (const char *at = text; *at; at++) two += one += (unsigned char)*at;
    return strlen(text) < 4 ? 0 : (one & 0xFFFF) + (two << 16);
}
static uint64_t fnv(uint64_t hash, const char *text) {
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}
/* The identity of a device, the same after every restart; as helperd.wire.identity. */
static const char *uuid_of(const hd_definition *definition, const char *own, char to[64]) {
    const char *given = hd_get(definition, "uuid"), *from = hd.helper->identity;
    const char *name = hd_interface(definition);
    uint64_t hash = checksum(name);
    if (has(given)) return given;
    if (has(own) || (hd.helper->shared && hd.helperd)) return own;
    if (!has(from)) from = TEXT_OF("helperd_%s", hd.helper->type);
    if (strncmp(from, "kismet_cap_", 11)) {
        hash = fnv(fnv(0xCBF29CE484222325u, from) * 0x100000001B3u, name); /* a NUL between the two */
        hash = (hash >> 48) ^ (hash & 0xFFFFFFFFFFFFu);
    } else if (strlen(name) < 4) {
        for (; *name; name++) hash = hash << 8 | (unsigned char)*name;
    }
    snprintf(to, 64, "%08lX-0000-0000-0000-%012llX", (unsigned long)checksum(from), (unsigned long long)hash);
    return to;
}

/* Packets */

void hd_signal(const hd_radio *radio) { if ((hd.has_radio = radio != NULL)) hd.radio = *radio; }
void hd_gps(const hd_position *at) { if ((hd.has_position = at != NULL)) hd.position = *at; }

static void count(uint64_t packets, const char *word) {
    if (packets && hd.helperd && hd.opened) send_map(COUNT, 0, -1, "\1s\2u", word, packets);
}
static void lost(uint64_t packets, const char *word) {
    static const char LOST[] = ",kernel,device,helper-queue,link-type,too-long,bad-record,";
    int changed = is_among(",cut,bad-stamp,not-finite,", word), known = changed || is_among(LOST, word);
    if (!packets) return;
    count(packets, known ? word : "device");
    tell(HD_ERROR, TEXT_OF("%llu packets %s (%s%s)", (unsigned long long)packets, changed ? "changed" : "lost",
                           word, known ? "" : ": no word for it, they are counted as device"));
}
void hd_lost(uint64_t packets, const char *word) { lock(), lost(packets, word), unlock(); }
/* Tell how many packets hd_offer has not taken since this was told last. */
static void tell_refused(void) {
    uint64_t refused = hd.refused - hd.refused_told;
    hd.refused_told = hd.refused;
    lost(refused, "helper-queue");
}

/* The options of a block: its flags, and radio and position as text (at most 430 bytes) for its comment. */
static size_t block_options(unsigned char to[OPTIONS_ROOM], uint32_t flags) {
    char text[512] = "";
    const hd_radio *radio = &hd.radio;
    const hd_position *at = &hd.position;
    const struct { const char *word, *unit; double value; } words[] = {
        {"signal", "dBm", radio->dbm}, {"noise", "dBm", radio->noise_dbm}, {"rssi", "", radio->rssi},
        {"noise_rssi", "", radio->noise_rssi}, {"freq", "kHz", (double)radio->khz}, {"rate", "", (double)radio->rate}};
    if (!flags && !hd.has_radio && !hd.has_position) return 0;
    for (size_t word = 0; hd.has_radio && word < LENGTH(words); word++)
        if (words[word].value < 0 || words[word].value > 0)
            append(text, sizeof text, " %s=%.15g%s", words[word].word, words[word].value, words[word].unit);
    if (hd.has_radio && has(radio->channel)) append(text, sizeof text, " channel=%.63s", radio->channel);
    if (hd.has_position)
        append(text, sizeof text, " lat=%.15g lon=%.15g alt=%.15gm speed=%.15gkm/h heading=%.15g precision=%.15gm",
               at->latitude, at->longitude, at->altitude, at->speed, at->heading, at->precision);
    size_t length = *text ? strlen(text) - 1 : 0, size = length ? 4 + ((length + 3) & ~(size_t)3) : 0;
    memset(to, 0, OPTIONS_ROOM);
    if (length) store_little(to, 1 | (uint32_t)length << 16), memcpy(to + 4, text + 1, length);
    if (flags) store_little(to + size, 2 | 4 << 16), store_little(to + size + 4, flags), size += 8;
    return size ? size + 4 : 0;
}

/* A packet as a block of the batch; there is room. */
static void add_block(const void *data, size_t size, const hd_meta *meta, const unsigned char *options,
                      size_t options_size) {
    size_t padded = (size + 3) & ~(size_t)3, total = 32 + padded + options_size;
    const uint32_t words[] = {6, (uint32_t)total, (uint32_t)hd.number, (uint32_t)(meta->ns >> 32),
                              (uint32_t)meta->ns, (uint32_t)size, meta->original};
    if (hd.packets && (hd.batched + total > BATCH || hd.runs == RUNS)) send_batch();
    unsigned char *to = hd.batch + hd.batched;
    for (size_t at = 0; at < LENGTH(words); at++) store_little(to + 4 * at, words[at]);
    memcpy(to + 28, data, size);
    memset(to + 28 + size, 0, padded - size);
    memcpy(to + 28 + padded, options, options_size);
    store_little(to + total - 4, (uint32_t)total);
    if (!hd.runs || hd.run_length != total) hd.runs++, hd.run_length = (uint32_t)total, hd.run_count = 0;
    store_little(hd.index + HEADER + 8 * hd.runs, hd.run_length);
    store_little(hd.index + HEADER + 8 * hd.runs + 4, ++hd.run_count);
    hd.batched += total;
    if (hd.packets++ == 0) nudge(total > BATCH);
}

static void put_position(struct out *out, const void *what) {
    const hd_position *at = what;
    pack(out, "\1d\2d\3d\4u\5d\6d\7d\10z\11z\12s\13s", at->latitude, at->longitude, at->altitude,
         (uint64_t)at->fix, at->speed, at->heading, at->precision, hd.heard_ns / 1000000000u,
         hd.heard_ns / 1000u % 1000000u, at->type, at->name);
}
static void put_radio(struct out *out, const void *what) {
    const hd_radio *radio = what;
    pack(out, "\1z\2z\3z\4z\5z\6z\7s", (uint64_t)(uint32_t)radio->dbm, (uint64_t)(uint32_t)radio->noise_dbm,
         (uint64_t)(uint32_t)radio->rssi, (uint64_t)(uint32_t)radio->noise_rssi, radio->khz, radio->rate,
         radio->channel);
}
/* The head of a data report, up to the value of its packet or JSON block: form has its key. */
static struct out report_head(unsigned char *data, size_t size, uint64_t ns, const char *form) {
    struct out out = frame(data, size, PACKET, 0, -1);
    hd.heard_ns = ns;
    pack(&out, form, put_position, hd.has_position ? &hd.position : NULL, put_radio,
         hd.has_radio ? &hd.radio : NULL);
    hd.has_radio = 0;
    return out;
}
/* Send a data report: `head` and the content behind it. Returns as hd_packet. */
static int send_report(struct out *head, const void *data, size_t size, size_t most) {
    if (head->full || size > most) return lost(1, "too-long"), 1;
    queue_frame(head, data, size);
    nudge(hd.queued >= BATCH);
    return 0;
}

/* A packet, cut to what the peer takes: as a block if helperd has given the device's link type a number,
 * otherwise as a data report. 0, 1: not taken, -1. `wait`: whether it may. */
static int packet(const void *data, size_t captured, const hd_meta *given, int wait) {
    unsigned char head[768], options[OPTIONS_ROOM];
    hd_meta meta = given ? *given : (hd_meta){0};
    if (hd.refused > hd.refused_told && (wait || !make_room(4 * TEXT, 0))) tell_refused();
    if (!meta.ns) meta.ns = clock_ns(CLOCK_REALTIME);
    if (!meta.original) meta.original = captured > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)captured;
    if (!meta.dlt) meta.dlt = hd.dlt;
    if (meta.dlt < 0 || meta.dlt > 0xFFFF) return lost(1, "link-type"), 1;
    size_t options_size = hd.helperd ? block_options(options, meta.flags) : 0;
    size_t most = hd.helperd ? MAX_BLOCK - 32 - options_size : REPORT - 512;
    size_t size = captured < most ? captured : most;
    int result = make_room(size + AROUND, wait);
    if (result && !wait) hd.refused++;
    if (!result && hd.number >= 0 && meta.dlt == hd.dlt) {
        add_block(data, size, &meta, options, options_size);
    } else if (!result) {
        struct out out = report_head(head, sizeof head, meta.ns, "\1f\2f\4v");
        pack(&out, "\1h\2u\3w\4w\6v", (uint64_t)meta.dlt, meta.ns / 1000000000u,
             meta.ns / 1000u % 1000000u, (uint64_t)meta.original); /* in widths that readers know */
        put_code(&out, 0xC6, size, 4);
        result = send_report(&out, data, size, most);
    }
    hd.has_radio = 0;
    if (result || size == captured) return result;
    count(1, "cut");
    uint64_t before = hd.cut++;
    if (!(before & hd.cut)) /* the first, and each time that it has doubled */
        tell(HD_ERROR, TEXT_OF("%llu packets cut because the peer takes no longer frames: to %lu bytes; the "
                               "last had %lu", (unsigned long long)hd.cut, (unsigned long)size,
                               (unsigned long)captured));
    return 0;
}
int hd_packet(const void *data, size_t size, const hd_meta *of) { return GUARD(packet(data, size, of, 1)); }
int hd_offer(const void *data, size_t size, const hd_meta *of) { return GUARD(packet(data, size, of, 0)); }

static int json(const char *kind, const char *text, uint64_t ns) {
    unsigned char data[1024];
    size_t size = strlen(text), most = hd.helperd ? MAX_BLOCK : REPORT - 512;
    if (!ns) ns = clock_ns(CLOCK_REALTIME);
    struct out out = report_head(data, sizeof data, ns, "\1f\2f\5v");
    if (!has(kind)) return lost(1, "bad-record"), 1;
    uint64_t rest_ns = hd.helperd ? ns % 1000 : 0;
    pack(&out, "\1s\2u\3u\100z\4v", kind, ns / 1000000000u, ns / 1000u % 1000000u, rest_ns);
    put_code(&out, 0xDB, size, 4);
    int result = size > most ? 0 : make_room(out.size + size, 1);
    return result ? result : send_report(&out, text, size, most);
}
int hd_json(const char *kind, const char *text, uint64_t ns) { return GUARD(json(kind, text, ns)); }

/* Let everything leave, and wait so long. 0, or -1: the helper shall end. */
static int rest(double seconds) {
    double until = monotonic() + (seconds > 0 ? seconds : 0);
    tell_refused();
    send_batch();
    while (!gone() && monotonic() < until) wait_changed(until);
    return gone() ? -1 : 0;
}
int hd_wait(double seconds) { return GUARD(rest(seconds)); }
int hd_flush(void) { return GUARD(rest(0)); }

/* Channels */

/* Each channel once a round, whatever the stride. */
static void walk(struct plan *plan) {
    double skip = plan->setting[SKIP];
    int stride = plan->setting[SHUFFLE] > 0 && skip > 1 && skip < plan->channels ? (int)skip : 1, number = 0;
    for (int first = 0; first < stride; first++)
        for (int at = first; at < plan->channels; at += stride) plan->at[number++].order = at;
}
/* Make a plan of an order for a hop list; what it does not say is as `before`. 0, or -1: refused. */
static int complete(struct plan *order, const struct plan *before) {
    static const double DEFAULTS[SETTINGS] = {[RATE] = 5, [SKIP] = 4};
    int (*parsed)(const char *, int64_t *) = hd.helper->channel_parse;
    for (int at = 0; at < SETTINGS; at++)
        if (!(order->said >> at & 1)) order->setting[at] = before ? before->setting[at] : DEFAULTS[at];
    for (struct channel *one = order->at; one < order->at + order->channels; one++) {
        one->value = one->failed = 0;
        one->unknown = parsed && AUTHOR(parsed(one->name, &one->value)) < 0;
    }
    if (!order->channels) return hd_refuse("bad-definition", "a hop list needs at least one channel");
    if (!(order->setting[RATE] >= 0 && order->setting[RATE] < 1e9))
        return hd_refuse("bad-definition", "a hop rate is 0 or more hops per second");
    walk(order);
    order->place = (int)((uint32_t)order->setting[OFFSET] % (uint32_t)order->channels);
    return 0;
}
/* Whether a plan has a channel of this name now; one that it had already is not there twice. */
static int add_channel(struct plan *to, const char *name, size_t size) {
    struct channel *new = &to->at[to->channels], *other = to->at;
    if (!size || size >= NAME || to->channels == CHANNELS || memchr(name, 0, size)) return 0;
    memcpy(new->name, name, size);
    new->name[size] = '\0';
    while (strcmp(other->name, new->name)) other++;
    to->channels += other == new;
    return 1;
}
static void copy_plan(struct plan *to, const struct plan *from) {
    memcpy(to, from, offsetof(struct plan, at) + (size_t)from->channels * sizeof *from->at);
}
static int is_hopping(void) { return hd.plan.channels && !hd.plan.fixed && hd.plan.setting[RATE] > 0; }

static void put_plan(struct out *out, const void *what) {
    const struct plan *plan = what;
    pack(out, "\1d\2b\3u\4u\5v", plan->setting[RATE], plan->setting[SHUFFLE] > 0,
         (uint64_t)plan->setting[SKIP], (uint64_t)plan->setting[OFFSET]);
    put_code(out, 0xDC, (uint64_t)plan->channels, 2);
    for (int at = 0; at < plan->channels; at++) put_text(out, plan->at[at].name);
}
/* A configure report: what it does now, or (NULL) a refusal. request 0: nobody asked. */
static void configured(uint32_t request, const struct plan *plan, const char *text, const char *problem) {
    const char *name = plan && plan->fixed ? plan->at[0].name : NULL;
    if (send_map(CONFIGREPORT, plan != NULL, request, "\1u\2s\3f\4s\100s", (uint64_t)request, name, put_plan,
                 name ? NULL : plan, text, problem) > 0)
        configured(request, NULL, "the hop list does not fit into a report", "no-resources");
}

/* Tune; value NULL: translate the name first. -1: it could not, and why() says the reason. */
static int try_channel(const char *name, const int64_t *value, int hop) {
    int (*set)(const char *, int64_t) = hop && hd.helper->hop ? hd.helper->hop : hd.helper->channel_set;
    int64_t own = value ? *value : 0;
    hd_refuse("", "it cannot");
    if (!value && hd.helper->channel_parse && AUTHOR(hd.helper->channel_parse(name, &own)) < 0) return -1;
    return AUTHOR(set(name, own)) < 0 ? -1 : 0;
}

static void obey(struct plan *order) {
    const char *name = order->at[0].name, *text;
    if (order->fixed ? try_channel(name, NULL, 0) : complete(order, is_hopping() ? &hd.plan : NULL)) {
        text = order->fixed ? TEXT_OF("cannot tune to channel %.63s: %s", name, why()->text) : why()->text;
        configured(order->request, NULL, text, why()->problem);
        return;
    }
    if (hd.works) copy_plan(&hd.before, &hd.plan);
    hd.works = order->fixed;
    copy_plan(&hd.plan, order);
    configured(order->request, &hd.plan, NULL, NULL);
}

/* Nothing of a list could be tuned: go back to what it did before it was asked to, or end. */
static void give_up(void) {
    char text[TEXT];
    struct plan *before = &hd.before;
    struct failure failure = hd.plan.failure;
    snprintf(text, sizeof text, "none of the channels can be tuned, the last because: %.900s", failure.text);
    hd.plan.channels = 0;
    if (!before->channels) {
        tell(HD_ERROR, text);
        send_map(ERROR, 1, 0, "\1s\100s", text, failure.problem);
        end(NULL, 1);
    } else if (before->fixed && try_channel(before->at[0].name, NULL, 0)) {
        tell(HD_ERROR, TEXT_OF("%s; it stays where it is", text));
    } else {
        copy_plan(&hd.plan, before);
        hd.works = 1;
        append(text, sizeof text, "; back as before");
        configured(0, &hd.plan, text, NULL);
    }
    before->channels = 0;
}

static void hop_once(void) {
    struct plan *plan = &hd.plan;
    struct channel *now = &plan->at[plan->at[plan->place].order];
    int kept = 0, before = plan->channels;
    plan->place = (plan->place + 1) % plan->channels;
    if (now->unknown) hd_refuse("", "it is no channel of this device");
    now->failed = now->unknown || try_channel(now->name, &now->value, 1);
    hd.works |= !now->failed;
    if (now->failed) {
        plan->failure = *why();
        snprintf(plan->failure.text, TEXT, "%.63s: %.900s", now->name, why()->text);
    }
    if (plan->place) return;
    for (int at = 0; at < before; at++)
        if (!plan->at[at].failed) plan->at[kept++] = plan->at[at];
    plan->channels = kept;
    if (!kept) give_up();
    if (!kept || kept == before) return;
    walk(plan);
    configured(0, plan, TEXT_OF("removed %d channels from the hop list: %s", before - kept,
                                plan->failure.text), NULL);
}

/* Hops are due at fixed times from the order on: who was held up catches up, so that radios that share a list
 * keep their distance; who is late by more than a round is late by whole rounds. */
static void *tune(void *unused) {
    double due = monotonic(), ready = due; /* ready: when the last hop has lasted long enough */
    (void)unused;
    pthread_setspecific(hd.own_failure, &hd.tune_failure);
    lock();
    while (!hd.stopping) {
        double at = due > ready ? due : ready;
        if (hd.orders) {
            obey(&hd.order[hd.first_order]);
            due = ready = monotonic();
            hd.first_order = (hd.first_order + 1) % (ORDERS + 1);
            hd.orders--;
        } else if (is_hopping() && monotonic() >= at) {
            double rate = hd.plan.setting[RATE];
            double dwell = rate * SHORTEST_HOP_S < 1 ? 1 / rate : SHORTEST_HOP_S;
            double round = dwell * hd.plan.channels;
            hop_once();
            ready = monotonic() + SHORTEST_HOP_S, due += dwell;
            if (monotonic() - due > round) due += (double)(int64_t)((monotonic() - due) / round) * round;
        } else {
            wait_changed(is_hopping() ? at : 0);
        }
    }
    unlock();
    pthread_setspecific(hd.own_failure, NULL);
    return NULL;
}

/* A thread with the signals blocked, which are the main thread's. */
static int start_thread(pthread_t *thread, void *(*run)(void *)) {
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
}
static void start_tuner(void) {
    pthread_cond_broadcast(&hd.changed);
    if (hd.tuning) return;
    hd.tuning = 1;
    if (!start_thread(&hd.tuner, tune)) return;
    hd.tuning = 0;
    tell(HD_ERROR, TEXT_OF("no thread to tune in: the channel stays as it is"));
}

/* A CONFIGREQ: exactly one of a channel and a hop list. 0, or -1: it is none. */
static int configure(uint32_t seqno, struct in map) {
    struct plan *order = &hd.order[(hd.first_order + hd.orders) % (ORDERS + 1)]; /* one is always free */
    struct value what[2], hop[SETTINGS + 1], name, *list = &hop[SETTINGS];
    const char *reason = NULL;
    int kinds = unpack(map, "\1s\2m", what), fixed = kinds == 1, said = 0, named = 1;
    if (kinds != 1 && kinds != 2) return -1;
    if (!fixed && (said = unpack(what[1].where, "\1f\2b\3u\4u\5a", hop)) < 0) return -1;
    memset(order, 0, offsetof(struct plan, at));
    order->request = seqno, order->fixed = fixed, order->said = (uint32_t)said;
    if (fixed) named = add_channel(order, what[0].text, what[0].number);
    for (int at = 0; at < SETTINGS; at++)
        if (said >> at & 1) order->setting[at] = hop[at].real;
    if (order->setting[SKIP] > 0xFFFFFFFFu || order->setting[OFFSET] > 0xFFFFFFFFu) return -1;
    if (said >> SETTINGS && next_value(&list->where, list)) return -1;
    for (uint64_t left = said >> SETTINGS ? list->number : 0; left > 0; left--) {
        if (next_value(&list->where, &name) || name.kind != 's') return -1;
        named = named && add_channel(order, name.text, name.number);
    }
    if (!hd.helper->channel_set) reason = "it has no channels";
    else if (!hd.opened) reason = "nothing is open yet";
    else if (!named && fixed) reason = "that is no name of a channel";
    else if (!named) reason = "the list has too many channels, or one of no name or too long a name";
    else if (hd.orders == ORDERS) reason = "too many orders to tune are waiting";
    if (!reason) return hd.orders++, start_tuner(), 0;
    configured(seqno, NULL, TEXT_OF("%s cannot tune: %s", hd.helper->type, reason), "not-supported");
    return 0;
}

/* The job: one list, probe or open a process */

void hd_list_add(hd_list *devices, const char *interface, const char *flags, const char *hardware) {
    struct out *out = &devices->out, before = *out;
    if (out->data) {
        pack(out, "\1s\2s\3s", interface, flags, hardware);
        devices->left_out += (size_t)out->full;
        devices->count += !out->full;
        if (out->full) *out = before;
        return;
    }
    const char *quote = strpbrk(interface, ":,\"") ? "\"" : "";
    printf("%s%s%s:type=%s%s%s%s%s\n", quote, interface, quote, hd.helper->type, has(flags) ? "," : "",
           has(flags) ? flags : "", has(hardware) ? "\t" : "", has(hardware) ? hardware : "");
    devices->count++;
}
static void put_list(struct out *out, const void *what) {
    const hd_list *devices = what;
    put_code(out, 0xDC, devices->count, 2);
    put(out, devices->out.data, devices->out.size);
}
static void put_device(struct out *out, const void *what) {
    const hd_device *device = what;
    pack(out, "\3s\4s\5s\6l", device->hardware, device->capture_interface, device->channel, device->channels);
}
static const char *version(void) {
    static char text[128];
    snprintf(text, sizeof text, "%.60s (%s)", has(hd.helper->version) ? hd.helper->version : "1", SDK);
    return text;
}

/* What the job has found. found NULL: it refuses, and why() says the reason. Returns as send_map. */
static int report(int yes, const hd_device *found, const char *text) {
    const hd_device *it = found ? found : &NOTHING;
    const char *problem = found ? NULL : why()->problem, *channel = it->channel;
    uint32_t request = hd.asked_seqno;
    uint64_t of = request;
    char uuid[64];
    if (!found) text = why()->text;
    if (hd.asked == LISTREQ)
        return send_map(LISTREQ + 1, !yes, -1, "\1u\2f\3s\4s\100s", of, put_list, found ? &hd.list : NULL,
                        text, version(), problem);
    if (hd.asked == PROBEREQ)
        return send_map(PROBEREQ + 1, yes, request, "\1u\2f\3s\100s", of, put_device, it, text, problem);
    if (found && hd.plan.fixed) channel = hd.plan.at[0].name;
    return send_map(OPENREQ + 1, yes, request, "\1u\2i\3s\4l\5s\6f\7s\10s\11s\12s\100s", of, it->dlt,
                    it->capture_interface, it->channels, channel, put_plan,
                    found && is_hopping() ? &hd.plan : NULL, it->hardware,
                    found ? uuid_of(&hd.definition, it->uuid, uuid) : NULL, text, version(), problem);
}

/* Each of these returns 0, -1: refused, or 1: does not fit into a report. */

static int do_list(void) {
    hd.list.out = (struct out){hd.list.data, 0, sizeof hd.list.data, 0, 0};
    if (hd.helper->list && AUTHOR(hd.helper->list(&hd.list)) < 0) return -1;
    int more = (int)hd.list.left_out;
    return report(1, &NOTHING, more ? TEXT_OF("%d more devices do not fit into the report", more) : NULL);
}

static int probe(hd_device *device) {
    const char *type = hd_get(&hd.definition, "type");
    if (hd.helper->probe) return AUTHOR(hd.helper->probe(&hd.definition, device));
    return type && !strcasecmp(type, hd.helper->type);
}
static int do_probe(void) {
    hd_device device = NOTHING;
    int mine = probe(&device);
    if (mine < 0 || (mine && check_options(&hd.definition))) return -1;
    return report(mine > 0, &device, device.message);
}

/* Begin as the definition and open want it: a fixed channel, or a hop list. */
static int first_plan(const hd_device *device) {
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

/* The capture, from the open report to the last packet. */
static int do_open(void) {
    hd_device device = NOTHING;
    if (check_options(&hd.definition) || AUTHOR(hd.helper->open(&hd.definition, &device)) < 0) return -1;
    if (first_plan(&device)) return -1;
    hd.dlt = device.dlt, hd.opened = 1;
    int result = report(1, &device, device.message);
    if (result) return hd.opened = 0, result;
    if (has(device.warning)) tell(HD_ERROR, device.warning);
    if (is_hopping()) start_tuner();
    double until = monotonic() + NUMBER_S; /* the link type's number comes unasked, or never */
    while (hd.helperd && hd.dlt >= 0 && !hd.numbered && !gone() && monotonic() < until) wait_changed(until);
    hd_refuse("", "the capture failed");
    result = AUTHOR(hd.helper->capture());
    if (rest(0)) return 0;
    if (result < 0) {
        tell(HD_ERROR, why()->text);
        send_map(ERROR, 1, 0, "\1s\100s", why()->text, why()->problem);
        return finish(1), 0;
    }
    if (!has(hd.reason)) hd_end("the capture has ended");
    tell(HD_INFO, hd.reason);
    if (!hd.helperd) return 0; /* a Kismet server would begin it all again: stay, and answer */
    send_map(SHUTDOWN, 1, -1, "\1s", hd.reason);
    return finish(0), 0;
}

static void *job(void *unused) {
    (void)unused;
    lock();
    int result = hd.asked == LISTREQ ? do_list() : hd.asked == PROBEREQ ? do_probe() : do_open();
    if (result > 0) hd_refuse("no-resources", "what is known of the device does not fit into a report");
    if (result && !gone()) report(0, NULL, NULL);
    if (hd.asked == OPENREQ && hd.helper->close) unlock(), hd.helper->close(), lock();
    if (!hd.opened) finish(0);
    hd.working = 0;
    wake();
    unlock();
    return NULL;
}
static void begin_job(int what, uint32_t seqno, const char *text, size_t size) {
    if (hd.asked) {
        send_map(ERROR, 1, seqno, "\1s\100s", "this helper is busy; one job per process", "busy");
        return;
    }
    hd.asked = what, hd.asked_seqno = seqno;
    if (what == LISTREQ || !read_definition(&hd.definition, text, size, !hd.helperd)) {
        hd.working = 1;
        int error = start_thread(&hd.job, job);
        hd.job_made = !error;
        if (!error) return;
        hd.working = 0;
        hd_refuse("no-resources", "cannot start a thread: %s", strerror(error));
    }
    report(0, NULL, NULL);
    finish(0);
}

/* Listening */

/* A REGISTER: helperd accepts the extension, or numbers a link type. */
static int registered(struct in map) {
    struct value got[3];
    int there = unpack(map, "\1s\100u\101u", got);
    if (there < 0 || !(there & 1)) return -1;
    if (got[0].number != sizeof SUBSYSTEM - 1 || memcmp(got[0].text, SUBSYSTEM, got[0].number)) return 0;
    hd.helperd = 1;
    if (hd.opened && there & 4 && got[2].number == (uint64_t)hd.dlt && !hd.numbered) {
        hd.number = there & 2 && got[1].number <= 0x7FFFFFFF ? (int)got[1].number : -1;
        hd.numbered = 1;
    }
    pthread_cond_broadcast(&hd.changed);
    return 0;
}
static void pong(uint32_t seqno) {
    unsigned char data[HEADER];
    struct out out = frame(data, sizeof data, PONG, 0, seqno);
    hd.ping_at = monotonic();
    if (!hd.broken) queue_frame(&out, NULL, 0);
    if (!hd.offered++) send_map(REGISTER, 0, -1, "\1s", SUBSYSTEM); /* in the same write: for helperd alone */
    hd.offered = 1;
    push();
}

/* One frame. 0, or -1: its payload is not what its type demands. */
static int handle(int type, uint32_t seqno, const unsigned char *payload, size_t size) {
    struct in map = {payload, payload + size, 0};
    struct value text;
    switch (type) {
    case PING: return pong(seqno), 0;
    case LISTREQ: return begin_job(LISTREQ, seqno, NULL, 0), 0;
    case PROBEREQ: case OPENREQ:
        if (unpack(map, "\1s", &text) < 1) return -1;
        return begin_job(type, seqno, text.text, text.number), 0;
    case CONFIGREQ: return configure(seqno, map);
    case REGISTER: return registered(map);
    case SHUTDOWN: return unpack(map, "\1 ", &text) < 0 ? -1 : (end(NULL, 0), 0);
    default: return 0; /* what we do not know is not for us */
    }
}

/* The frames among what was read, as long as there is room to answer. NULL, or why the channel ends. */
static const char *frames(void) {
    size_t at = 0;
    const char *wrong = NULL;
    while (!wrong && hd.buffered - at >= 12 && hd.listening && room() >= RESERVE) {
        const unsigned char *data = hd.input + at;
        uint32_t word = load(data + 4), size = load(data + 8), head = word == 0xABCD0002 ? HEADER_V2 : HEADER;
        if (load(data) != 0xDECAFBAD) wrong = "bad-signature: a frame does not start with DE CA FB AD";
        else if (word >> 16 == 0xA9A9 && word != 0xA9A90003) wrong = "bad-version: v3 frames have version 3";
        else if (word != 0xA9A90003 && head == HEADER) wrong = "wrong-generation: this helper speaks v3 only";
        else if (size > INPUT - head) wrong = "frame-too-long: 65536 bytes at most";
        else if (hd.buffered - at < head + size) break;
        else if (head == HEADER) {
            int type = data[12] << 8 | data[13];
            if (handle(type, load(data + 16), data + HEADER, size))
                wrong = TEXT_OF("bad-payload: v3 type %d: the payload is not what its type demands", type);
        } else if (strncasecmp((const char *)data + 12, "PING", 5)) {
            wrong = "wrong-generation: of v2, only PING is answered";
        } else {
            pong(load(data + 44));
        }
        if (!wrong) at += head + size;
    }
    memmove(hd.input, hd.input + at, hd.buffered - at);
    hd.buffered -= at;
    return wrong;
}

/* What was read before, and now if there is something to read. */
static void hear(int readable) {
    ssize_t got = readable ? read(hd.in_fd, hd.input + hd.buffered, sizeof hd.input - hd.buffered) : 0;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got < 0) complain(0, "cannot read from the server: %s", strerror(errno));
    if (got > 0) hd.buffered += (size_t)got;
    const char *wrong = readable && got <= 0 ? "" : frames(); /* "": it has closed our input */
    if (!wrong) return;
    hd.listening = 0;
    if (*wrong) complain_of(0, wrong);
    end(NULL, *wrong != '\0');
}

/* The main loop */

/* Whether nothing is left to do. */
static int over(void) {
    double left = hd.end_by > 0 ? hd.end_by - monotonic() : STOP_GRACE_S + GRACE_S;
    if (!hd.ending || (hd.working && left > GRACE_S)) return 0;
    if (hd.offered && hd.farewell) send_map(SHUTDOWN, 1, -1, "\1s", hd.farewell);
    hd.farewell = NULL;
    seal();
    drain();
    return hd.broken || left <= 0 || !hd.queued;
}
static int timeout_ms(void) {
    double now = monotonic(), until = now + 60;
    if (!hd.helperd && hd.ping_at + WATCHDOG_S < until) until = hd.ping_at + WATCHDOG_S;
    if (hd.end_by > 0) until = hd.working && now < hd.end_by - GRACE_S ? hd.end_by - GRACE_S : hd.end_by;
    if (hd.packets && !hd.queued && now + TICK_S < until) until = now + TICK_S;
    return until <= now ? 0 : (int)((until - now) * 1000) + 1;
}
static void turn(void) {
    char dust[256];
    int reads = hd.listening && hd.buffered < INPUT && room() >= RESERVE, wait_ms = timeout_ms();
    int late = hd.packets && !hd.queued;
    hd.polls_out = hd.queued > 0, hd.idle = !hd.packets && !hd.queued;
    struct pollfd on[3] = {
        {hd.wake[0], POLLIN, 0}, {hd.out_fd, hd.polls_out ? POLLOUT : 0, 0}, {hd.in_fd, POLLIN, 0}};
    if (AUTHOR(poll(on, reads ? 3 : 2, wait_ms)) < 0) on[0].revents = on[1].revents = on[2].revents = 0;
    if (on[0].revents & POLLIN && read(hd.wake[0], dust, sizeof dust) < 0 && errno != EAGAIN) hd.broken = 1;
    if (on[1].revents & (POLLERR | (hd.in_fd == hd.out_fd ? 0 : POLLHUP))) hd.broken = 1;
    hd.polls_out = 0;
    if (late && hd.packets && !hd.queued) send_batch();
    drain();
    if (hd.broken) end(NULL, 0);
    if (signalled) end(signalled == SIGINT ? "asked to end by SIGINT" : "asked to end by SIGTERM", 0);
    if (!hd.helperd && monotonic() - hd.ping_at > WATCHDOG_S) end("no PING for 15 s", 0);
    if (hd.listening) hear(reads && on[2].revents);
}
static int start(void) {
    pthread_condattr_t attributes;
    hd.allocated = hd.helper->ring > RING ? hd.helper->ring : RING;
    hd.capacity = hd.helper->ring > RING ? hd.allocated : SMALL_RING;
    hd.ring = malloc(hd.allocated);
    if (!hd.ring || pipe(hd.wake) || pipe(hd.stop)) return complain(-1, "cannot start: %s", strerror(errno));
    const int ends[] = {hd.wake[0], wake_fd = hd.wake[1], hd.stop[1], hd.in_fd, hd.out_fd};
    for (size_t at = 0; at < LENGTH(ends); at++)
        fcntl(ends[at], F_SETFL, fcntl(ends[at], F_GETFL) | O_NONBLOCK);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&hd.changed, &attributes);
    hd.listening = 1, hd.ping_at = monotonic();
    return 0;
}
static int serve(void) {
    while (!over()) turn();
    hd.stopping = 1;
    pthread_cond_broadcast(&hd.changed);
    if (hd.job_made && !hd.working) unlock(), pthread_join(hd.job, NULL), lock();
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

static int help(void) {
    const hd_option *option = hd.helper->options;
    printf("%s: %s\n\nStarted by helperd or a Kismet server: --in-fd=N --out-fd=N\n\n", hd.helper->type,
           has(hd.helper->summary) ? hd.helper->summary : "a capture helper");
    for (int at = 0; at < FLAGS && FLAG[at].meaning; at++) {
        int width = printf("  %s%s%s", FLAG[at].name, *FLAG[at].value ? "=" : "", FLAG[at].value);
        printf("%*s%s\n", 31 - width, "", FLAG[at].meaning);
    }
    if (option && option->name) printf("\nOptions of a definition:\n\n");
    for (; option && option->name; option++) printf("  %-12s  %s\n", option->name, option->meaning);
    return 0;
}
static int print_list(void) {
    if (hd.helper->list && hd.helper->list(&hd.list) < 0) return complain(1, "%s", why()->text);
    return hd.list.count ? 0 : 1;
}
static int descriptor(int flag, const char *value, int *to) {
    char *after;
    errno = 0;
    long number = strtol(value, &after, 10);
    if (*after || number < 0 || number > 1 << 20 || errno)
        return complain(USAGE, "%s takes the number of a file descriptor, not '%s'", FLAG[flag].name, value);
    *to = (int)number;
    if (!fcntl(*to, F_SETFD, FD_CLOEXEC)) return 0;
    return complain(USAGE, "%s=%s: %s", FLAG[flag].name, value, strerror(errno));
}
/* The command line, into `given`: NULL, the value, or "" for flags that have none. 0, or the status. */
static int parse(int argc, char **argv, const char *given[FLAGS]) {
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

static int is_within(double number, double most) { return number >= -most && number <= most; } /* nan is not */
static int fixed_gps(const char *text, const char *name) {
    hd_position *to = &hd.position;
    int used = 0;
    to->fix = sscanf(text, "%lf,%lf%n,%lf%n", &to->latitude, &to->longitude, &used, &to->altitude, &used);
    if (to->fix < 2 || text[used] || !is_within(to->latitude, 90) || !is_within(to->longitude, 180) ||
        !is_within(to->altitude, 1e9))
        return complain(USAGE, "--fixed-gps=%s: write latitude,longitude or latitude,longitude,altitude "
                        "in degrees and metres", text);
    to->type = "remote-fixed";
    to->name = name ? name : to->type;
    hd.has_position = 1;
    return 0;
}

/* A connection, or -1 (told). */
static int dial(const char *to, const char *host, const char *port) {
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
/* Looked at here: C libraries take 65537 for port 1. */
static int is_port(const char *text) {
    size_t digits = strspn(text, "0123456789");
    return !text[digits] && digits < 6 && atoi(text) > 0 && atoi(text) < 65536;
}
/* Dial, say what we are, and be a helper on that connection. */
static int remote(const char *to, const char *source) {
    char host[256], uuid[64];
    const char *colon = strrchr(to, ':');
    hd_device device = NOTHING;
    if (!colon || colon == to || !is_port(colon + 1) || colon - to >= (ptrdiff_t)sizeof host)
        return complain(USAGE, "--connect=%s: write HOST:PORT, such as 10.8.0.1:3501 or [fd00::1]:3501", to);
    int mine = read_definition(&hd.definition, source, strlen(source), 0) ? -1 : probe(&device);
    if (mine < 1)
        return complain(1, "--source=%s: %s", source,
                        mine < 0 ? why()->text : "not for this helper; does it have the right type=?");
    int bracketed = *to == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(colon - to) - 2 * bracketed, to + bracketed);
    hd.in_fd = hd.out_fd = dial(to, host, colon + 1);
    if (hd.in_fd < 0) return UNAVAILABLE;
    if (start()) return 1;
    const char *identity = uuid_of(&hd.definition, device.uuid, uuid);
    send_map(NEWSOURCE, 0, -1, "\1s\2s\3s", source, hd.helper->type, identity);
    return serve();
}

static void on_signal(int number) {
    int before = errno;
    signalled = number;
    if (wake_fd >= 0) poke(wake_fd);
    errno = before;
}
static sigset_t ends(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}
/* Begin anew after a while, with nothing left of the connection before: the same program in the same process.
 * Signals are kept from here until there is somebody to hear them. */
static int again(char **argv) {
    sigset_t kept = ends(), before;
    sigprocmask(SIG_BLOCK, &kept, &before);
    if (signalled) return 0;
    complain(0, "dials again in %d s", RETRY_S);
    if (ppoll(NULL, 0, &(struct timespec){RETRY_S, 0}, &before) < 0 && signalled) return 0;
    for (int fd = 3; fd < sysconf(_SC_OPEN_MAX) && fd < 65536; fd++) close(fd);
    execvp(argv[0], argv);
    return complain(UNAVAILABLE, "cannot start %s again: %s", argv[0], strerror(errno));
}

int hd_run(int argc, char **argv, const hd_helper *helper) {
    const char *given[FLAGS] = {NULL};
    struct sigaction ending = {.sa_handler = on_signal}, ignored = {.sa_handler = SIG_IGN};
    sigset_t kept = ends();
    hd.helper = helper, hd.main = pthread_self();
    hd.in_fd = hd.out_fd = hd.stop[0] = hd.dlt = hd.number = -1;
    pthread_mutex_init(&hd.lock, NULL);
    pthread_key_create(&hd.own_failure, NULL);
    if (!helper->type || !helper->open || !helper->capture)
        return fprintf(stderr, "helper: a table needs type, open and capture\n"), USAGE;
    int status = parse(argc, argv, given);
    if (status) return status;
    if (given[HELP]) return help();
    if (given[VERSION]) return printf("%s %s\n", helper->type, version()) < 0;
    if (given[LIST]) return print_list();
    if (given[CONNECT] && !given[SOURCE])
        return complain(USAGE, "--connect needs --source=DEFINITION: what to capture from");
    if (!given[CONNECT] && !(given[IN_FD] && given[OUT_FD]))
        return complain(USAGE, "--in-fd and --out-fd must be given: helperd or a Kismet server starts a "
                        "helper; try --help");
    if (given[FIXED_GPS] && (status = fixed_gps(given[FIXED_GPS], given[GPS_NAME]))) return status;
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    prctl(PR_SET_DUMPABLE, 0); /* its memory, where packets are, is nobody else's, whoever has its uid */
#endif
    sigaction(SIGPIPE, &ignored, NULL);
    sigaction(SIGTERM, &ending, NULL);
    sigaction(SIGINT, &ending, NULL);
    sigprocmask(SIG_UNBLOCK, &kept, NULL); /* `again` has blocked them */
    lock();
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
    unlock();
    return status;
}
