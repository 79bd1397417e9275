/* A producer with its packets prepared beforehand: a stand-in for capture helpers, and the source of every baseline.
 *
 *   load --in-fd=3 --out-fd=4      a helper; its definition is loadNUMBER:type=load,KEY=VALUE,...
 *   load NAME:KEY=VALUE,...        writes to standard output at once
 *
 * form=     v3, v2, v0: a frame per packet as C helpers write them; bulk: the bulk extension; pcapng: no frames at all
 * size=     bytes of each packet, at least 16
 * ms=       how long to produce
 * rate=     packets per second; 0: as fast as they are taken
 * at=       when to begin, in nanoseconds of CLOCK_MONOTONIC; the offset of its writes is then by chance
 * unit=     packets of a bulk frame, and of a write when there is a rate
 * write=    bytes of a write at full speed
 * select=1  a capture thread fills a ring of 4 MiB, the main loop waits in select, 500 ms at most, and writes one
 *           frame each time: the main loop of Kismet's C helpers (kismet-protocol.md, 3.3)
 *
 * The first 8 bytes of a packet are 0; in the last packet they are how many there were, itself included. The next 8 are
 * the time of its write in nanoseconds of CLOCK_MONOTONIC, if there is a rate. Both little-endian. Stays until its
 * input ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

enum { V0 = 0, V2 = 2, V3 = 3, BULK = 4, PCAPNG = 5 };
enum { ROOM = 1 << 19, RING = 4 << 20 };

static int in_fd = -1, out_fd = 1;
static int form = V3, one_by_one;
static long size = 128, ms = 1000, unit = 1, chunk = 65536;
static double rate;
static uint64_t at_ns;
static uint32_t interface_number, seqno = 1;

static uint8_t *units;                 /* the prepared bytes */
static size_t units_size, *unit_at;    /* where each unit starts; one more for the end */
static size_t *content_at;             /* where each packet's content starts */
static long n_units, n_packets;

static void be16(uint8_t *at, uint16_t v) { at[0] = v >> 8; at[1] = v; }
static void be32(uint8_t *at, uint32_t v) { be16(at, v >> 16); be16(at + 2, v); }
static uint32_t rd32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }
static void le32(uint8_t *at, uint32_t v) { memcpy(at, &v, 4); }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void put(const uint8_t *data, size_t left) {
    while (left) {
        ssize_t n = write(out_fd, data, left);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) exit(0);
        data += n;
        left -= n;
    }
}

/* frames */

static uint8_t *varint(uint8_t *p, uint64_t v) {
    for (; v > 127; v >>= 7) *p++ = v | 128;
    *p++ = v;
    return p;
}

static uint8_t *mnumber(uint8_t *p, uint32_t v) {
    if (v < 128) *p++ = v;
    else if (v < 256) { *p++ = 0xcc; *p++ = v; }
    else if (v < 65536) { *p++ = 0xcd; be16(p, v); p += 2; }
    else { *p++ = 0xce; be32(p, v); p += 4; }
    return p;
}

static uint32_t checksum(const uint8_t *data, size_t n) {
    uint32_t a = 0, b = 0;
    if (n < 4) return 0;
    for (size_t i = 0; i < n; i++) { a += data[i]; b += a; }
    return (a & 0xffff) + (b << 16);
}

static size_t head(uint8_t *at, int generation, const char *command, int type, int code, uint32_t number, size_t n) {
    be32(at, 0xDECAFBAD);
    be32(at + 8, n);
    if (generation == V2) {
        be32(at + 4, 0xABCD0002);
        memset(at + 12, 0, 32);
        strcpy((char *)at + 12, command);
        be32(at + 44, number);
        return 48;
    }
    be32(at + 4, 0xA9A90003);
    be16(at + 12, type);
    be16(at + 14, code);
    be32(at + 16, number);
    return 20;
}

static size_t frame(uint8_t *at, const char *command, int type, int code, uint32_t number, const uint8_t *body, size_t n) {
    if (form != V0) {
        size_t h = head(at, form == V2 ? V2 : V3, command, type, code, number, n);
        memmove(at + h, body, n);
        return h + n;
    }
    uint8_t *p = at + 12;
    *p++ = 0x0a; p = varint(p, strlen(command));
    memcpy(p, command, strlen(command)); p += strlen(command);
    *p++ = 0x10; p = varint(p, number);
    *p++ = 0x1a; p = varint(p, n);
    memmove(p, body, n);
    p += n;
    be32(at, 0xDECAFBAD);
    be32(at + 4, checksum(at + 12, p - at - 12));
    be32(at + 8, p - at - 12);
    return p - at;
}

/* One packet; `end` gets the offset behind its content. */
static size_t packet(uint8_t *at, const uint8_t *content, uint32_t sec, uint32_t usec, size_t *end) {
    static uint8_t body[1 << 17];
    uint8_t *p = body;
    size_t n;
    if (form >= BULK) {
        size_t total = 32 + ((size + 3) & ~3);
        uint64_t stamp = sec * 1000000000ull + usec * 1000ull;
        uint32_t words[7] = {6, total, interface_number, stamp >> 32, stamp, size, size};
        memcpy(at, words, 28);
        memset(at + total - 8, 0, 4);
        memcpy(at + 28, content, size);
        le32(at + total - 4, total);
        *end = 28 + size;
        return total;
    }
    if (form == V3) {
        *p++ = 0x81; *p++ = 4; *p++ = 0x85;
        *p++ = 1; p = mnumber(p, 1);
        *p++ = 2; p = mnumber(p, sec);
        *p++ = 3; p = mnumber(p, usec);
        *p++ = 4; p = mnumber(p, size);
        *p++ = 6;
        if (size < 256) { *p++ = 0xc4; *p++ = size; }
        else { *p++ = 0xc5; be16(p, size); p += 2; }
        memcpy(p, content, size);
        n = frame(at, "", 16, 0, seqno++, body, p + size - body);
    } else {
        uint8_t inner[64], *q = inner;
        *q++ = 0x08; q = varint(q, sec);
        *q++ = 0x10; q = varint(q, usec);
        *q++ = 0x18; q = varint(q, 1);
        *q++ = 0x20; q = varint(q, size);
        *q++ = 0x2a; q = varint(q, size);
        *p++ = 0x1a; p = varint(p, q - inner + size);
        memcpy(p, inner, q - inner); p += q - inner;
        memcpy(p, content, size);
        n = frame(at, "KDSDATAREPORT", 0, 0, seqno++, body, p + size - body);
    }
    *end = n;
    return n;
}

/* `count` packets as one unit; the offsets of their contents go to `where`. */
static size_t a_unit(uint8_t *at, long count, const uint8_t *content, uint32_t usec, uint32_t step, size_t *where) {
    size_t n = form == BULK ? 20 + 16 : 0, end;
    for (long i = 0; i < count; i++) {
        size_t more = packet(at + n, content, 1700000000, usec + i * step, &end);
        where[i] = n + end - size;
        n += more;
    }
    if (form == BULK) {
        head(at, V3, "", 0x4844, 0, seqno++, n - 20);
        le32(at + 20, count); le32(at + 24, 1); le32(at + 28, (n - 36) / count); le32(at + 32, count);
    }
    return n;
}

static uint8_t *content_of(uint64_t total) {
    static uint8_t content[1 << 16];
    for (long i = 0; i < size; i++) content[i] = i * 167 + (i >> 8);
    memset(content, 0, 16);
    memcpy(content, &total, 8);
    return content;
}

static void prepare(void) {
    size_t most = size + 128;
    n_units = ROOM / (unit * most);
    if (n_units < 2) n_units = 2;
    n_packets = n_units * unit;
    units = malloc(n_packets * most + n_units * 64);
    unit_at = malloc((n_units + 1) * sizeof *unit_at);
    content_at = malloc(n_packets * sizeof *content_at);
    uint32_t step = 999999 / n_packets;
    uint8_t *content = content_of(0);
    for (long i = 0; i < n_units; i++) {
        unit_at[i] = units_size;
        size_t n = a_unit(units + units_size, unit, content, i * unit * step, step, content_at + i * unit);
        for (long k = i * unit; k < (i + 1) * unit; k++) content_at[k] += units_size;
        units_size += n;
    }
    unit_at[n_units] = units_size;
}

static void put_last(uint64_t total) {
    static uint8_t last[1 << 17];
    size_t at;
    uint8_t *content = content_of(total);
    uint64_t now = now_ns();
    if (rate) memcpy(content + 8, &now, 8);
    put(last, a_unit(last, 1, content, 999999, 0, &at));
}

static void fast(void) {
    uint64_t end = now_ns() + ms * 1000000ull, sent = 0;
    do {
        for (size_t at = 0; at < units_size; at += chunk)
            put(units + at, units_size - at < (size_t)chunk ? units_size - at : (size_t)chunk);
        sent += n_packets;
    } while (now_ns() < end);
    put_last(sent + 1);
}

static void paced(void) {
    double interval = unit / rate * 1e9;
    uint64_t begin, sent = 0;
    prctl(PR_SET_TIMERSLACK, 1);
    srand(getpid());
    begin = (at_ns ? at_ns : now_ns()) + (uint64_t)(interval * (rand() / (RAND_MAX + 1.0)));
    for (uint64_t turn = 0; turn * interval < ms * 1e6; turn++) {
        uint64_t due = begin + (uint64_t)(turn * interval), now;
        struct timespec t = {due / 1000000000, due % 1000000000};
        while (now_ns() < due) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        long u = turn % n_units;
        now = now_ns();
        for (long k = u * unit; k < (u + 1) * unit; k++) memcpy(units + content_at[k] + 8, &now, 8);
        if (form == V0)
            for (size_t at = unit_at[u]; at < unit_at[u + 1]; at += 12 + rd32(units + at + 8))
                be32(units + at + 4, checksum(units + at + 12, rd32(units + at + 8)));
        put(units + unit_at[u], unit_at[u + 1] - unit_at[u]);
        sent += unit;
    }
    put_last(sent + 1);
}

/* the main loop of a C helper */

static uint8_t ring[RING];
static size_t ring_head, ring_used;
static uint64_t captured;
static int capture_ended;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t room = PTHREAD_COND_INITIALIZER;

static void *capture(void *_) {
    uint64_t end = now_ns() + ms * 1000000ull;
    (void)_;
    while (now_ns() < end)
        for (long i = 0; i < n_packets; i++) {
            size_t n = unit_at[i + 1] - unit_at[i];
            pthread_mutex_lock(&lock);
            while (RING - ring_used < n) pthread_cond_wait(&room, &lock);
            size_t at = (ring_head + ring_used) % RING, first = n < RING - at ? n : RING - at;
            memcpy(ring + at, units + unit_at[i], first);
            memcpy(ring, units + unit_at[i] + first, n - first);
            ring_used += n;
            captured++;
            pthread_mutex_unlock(&lock);
        }
    pthread_mutex_lock(&lock);
    capture_ended = 1;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int used(void) {
    pthread_mutex_lock(&lock);
    int n = ring_used + capture_ended;
    pthread_mutex_unlock(&lock);
    return n;
}

static void framewise(void) {
    pthread_t thread;
    static uint8_t one[1 << 17];
    pthread_create(&thread, NULL, capture, NULL);
    for (;;) {
        fd_set reads, writes;
        struct timeval tick = {0, 500000};
        FD_ZERO(&reads);
        FD_ZERO(&writes);
        if (in_fd >= 0) FD_SET(in_fd, &reads);
        if (used()) FD_SET(out_fd, &writes);
        if (select((in_fd > out_fd ? in_fd : out_fd) + 1, &reads, &writes, NULL, &tick) < 0) exit(1);
        if (in_fd >= 0 && FD_ISSET(in_fd, &reads)) {
            uint8_t some[1024];
            if (read(in_fd, some, sizeof some) <= 0) exit(0);
        }
        if (!FD_ISSET(out_fd, &writes)) continue;
        pthread_mutex_lock(&lock);
        if (!ring_used) break;
        uint8_t lengths[4];
        for (int i = 0; i < 4; i++) lengths[i] = ring[(ring_head + 8 + i) % RING];
        size_t n = rd32(lengths) + (form == V2 ? 48 : form == V3 ? 20 : 12);
        size_t first = n < RING - ring_head ? n : RING - ring_head;
        memcpy(one, ring + ring_head, first);
        memcpy(one + first, ring, n - first);
        ring_head = (ring_head + n) % RING;
        ring_used -= n;
        pthread_cond_signal(&room);
        pthread_mutex_unlock(&lock);
        put(one, n);
    }
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    put_last(captured + 1);
}

static void produce(void) {
    prepare();
    if (one_by_one) framewise();
    else if (rate) paced();
    else fast();
}

/* the conversation */

static void define(char *text) {
    char *colon = strchr(text, ':'), *word;
    for (word = strtok(colon ? colon + 1 : text, ","); word; word = strtok(NULL, ",")) {
        char *value = strchr(word, '=');
        if (!value) continue;
        value++;
        if (!strncmp(word, "form=", 5))
            form = !strcmp(value, "v0") ? V0 : !strcmp(value, "v2") ? V2 : !strcmp(value, "bulk") ? BULK
                 : !strcmp(value, "pcapng") ? PCAPNG : V3;
        if (!strncmp(word, "size=", 5)) size = atol(value);
        if (!strncmp(word, "ms=", 3)) ms = atol(value);
        if (!strncmp(word, "rate=", 5)) rate = atof(value);
        if (!strncmp(word, "at=", 3)) at_ns = strtoull(value, NULL, 10);
        if (!strncmp(word, "unit=", 5)) unit = atol(value);
        if (!strncmp(word, "write=", 6)) chunk = atol(value);
        if (!strncmp(word, "select=", 7)) one_by_one = atoi(value);
    }
    if (size < 16 || size > 60000 || unit < 1 || chunk < 1) exit(2);
    if (one_by_one) unit = 1;
}

static uint8_t in[1 << 16];
static size_t have;

static void need(size_t n) {
    while (have < n) {
        ssize_t more = read(in_fd, in + have, sizeof in - have);
        if (more <= 0) exit(0);
        have += more;
    }
}

static void took(size_t n) { memmove(in, in + n, have -= n); }

/* A pointer to the definition in an open request. */
static char *definition(size_t n) {
    for (size_t i = 12; i + 5 < n; i++)
        if (!memcmp(in + i, "load", 4)) {
            char *text = strndup((char *)in + i, n - i);
            return text;
        }
    exit(2);
}

static const char OFFER[] = "helperd-bulk/2";

int main(int argc, char **argv) {
    uint8_t out[512], body[64], *b;
    int offered = 0;
    for (int i = 1; i < argc; i++) {
        sscanf(argv[i], "--in-fd=%d", &in_fd);
        sscanf(argv[i], "--out-fd=%d", &out_fd);
    }
    if (in_fd < 0) {
        uint8_t preface[48] = {0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
                               255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0,
                               1, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0};
        if (argc != 2) return 2;
        define(argv[1]);
        if (form == PCAPNG) put(preface, sizeof preface);
        produce();
        return 0;
    }
    int forced = -1;                       /* which generation this program speaks: told by its name */
    const char *name = strrchr(argv[0], '-');
    if (name && !strcmp(name, "-v2")) forced = V2;
    if (name && !strcmp(name, "-v0")) forced = V0;
    int offers = name && !strcmp(name, "-bulk");
    for (;;) {
        need(12);
        size_t n;
        if (rd32(in + 4) == 0xABCD0002) n = 48; else if (rd32(in + 4) == 0xA9A90003) n = 20; else n = 12;
        n += rd32(in + 8);
        need(n);
        int generation = forced >= 0 ? forced : V3;
        int spoken = rd32(in + 4) == 0xABCD0002 ? V2 : rd32(in + 4) == 0xA9A90003 ? V3 : V0;
        const char *command = spoken == V2 ? (char *)in + 12 : spoken == V0 ? (char *)in + 14 : "";
        int type = spoken == V3 ? in[12] << 8 | in[13] : 0;
        uint32_t number = spoken == V3 ? rd32(in + 16) : spoken == V2 ? rd32(in + 44) : 0;
        if (spoken == V0) {                /* 0a len command 10 seqno */
            uint8_t *p = in + 14 + in[13] + 1;
            for (int shift = 0;; shift += 7) { number |= (uint32_t)(*p & 127) << shift; if (*p++ < 128) break; }
        }
        form = generation;
        b = body;
        if (type == 2 || !strncmp(command, "PING", 4)) {
            if (generation != V3) { *b++ = 8; b = varint(b, number); }
            size_t m = frame(out, "PONG", 3, 0, generation == V3 ? number : seqno++, body, b - body);
            if (generation == V3 && offers && !offered) {
                offered = 1;
                uint8_t offer[32] = {0x81, 1, 0xa0 | 14};
                memcpy(offer + 3, OFFER, 14);
                m += frame(out + m, "", 1, 0, seqno++, offer, 17);
            }
            put(out, m);
        } else if (type == 4) {
            return 0;
        } else if (type == 12 || !strncmp(command, "KDSOPENSOURCE", 13)) {
            char *text = definition(n);
            if (generation == V3) {
                *b++ = 0x83; *b++ = 1; *b++ = 0xce; be32(b, number); b += 4;
                *b++ = 2; *b++ = 1; *b++ = 3; *b++ = 0xa4; memcpy(b, "load", 4); b += 4;
            } else {
                *b++ = 0x0a; uint8_t *at = b++; *b++ = 8; *b++ = 1; *b++ = 0x10; b = varint(b, number); *at = b - at - 1;
                *b++ = 0x10; *b++ = 1;
            }
            put(out, frame(out, "KDSOPENSOURCEREPORT", 13, 1, number ? number : 1, body, b - body));
            took(n);
            define(text);
            if (form == BULK) {            /* {1: OFFER, 64: number, 65: link type} */
                for (n = 0;; took(n)) {
                    need(20);
                    n = 20 + rd32(in + 8);
                    need(n);
                    if (in[13] == 1 && in[20] == 0x83) break;
                }
                uint8_t *p = in + 20 + 3 + 14 + 1;
                interface_number = *p < 128 ? *p : *p == 0xcc ? p[1] : p[1] << 8 | p[2];
                took(n);
            }
            produce();
            for (;;) { have = 0; need(1); }
        }
        took(n);
    }
}
