/* A consumer that only reads and counts.
 *
 *   drain FORM SIZE SOURCES [PATH]
 *
 * FORM     pcapng, pcap, frames (helperd's), or raw (a helper's own frames)
 * SIZE     bytes of each packet
 * SOURCES  how many producers' last packets to wait for (benchmarks/load.c)
 * PATH     a unix stream socket to connect to; without it standard input is read
 *
 * Says "ready" when it is, and at the end one line of JSON:
 *   seconds   from the first read with a packet in it to the last
 *   timed     packets of those seconds: all but the first read's
 *   packets   all of them; lost: as the stream tells; total: as the producers tell
 *   ended     whether every producer's packets have all come or been told lost
 *   p50_us, p99_us, max_us   from a packet's write by its producer to the end of the read that brought it; 0 without stamps
 *   cpu_s     what this process used
 * Ends by itself after ten seconds without a byte.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 8 << 20, READ = 1 << 20, MANY = 4096 };

static uint8_t data[ROOM];
static uint64_t packets, total, lost, told[MANY], now;
static long sources, size, done;
static uint64_t histogram[64][64], stamped, worst;

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint32_t le(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static uint64_t le64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
static uint32_t be(const uint8_t *at) { return __builtin_bswap32(le(at)); }

static inline void content(const uint8_t *at) {
    uint64_t mark = le64(at), stamp = le64(at + 8);
    packets++;
    if (mark) { total += mark; done++; }
    if (stamp) {
        uint64_t ns = now > stamp ? now - stamp : 0;
        int power = 63 - __builtin_clzll(ns | 63);
        histogram[power][ns >> (power - 6) & 63]++;
        stamped++;
        if (ns > worst) worst = ns;
    }
}

/* Each takes whole units from `at` on and returns the offset of what is not whole. */

static size_t pcapng(size_t at, size_t end) {
    while (end - at >= 12) {
        uint32_t kind = le(data + at), length = le(data + at + 4);
        if (length < 12 || length & 3 || length > READ) { fprintf(stderr, "drain: no block at %zu\n", at); exit(1); }
        if (length > end - at) break;
        if (kind == 6) content(data + at + 28);
        if (kind == 5) {                     /* statistics: option 5 is how many were dropped so far */
            uint32_t number = le(data + at + 8) % MANY;
            for (size_t o = at + 20; o + 12 <= at + length;) {
                uint32_t head = le(data + o);
                if ((head & 0xffff) == 5) { lost += le64(data + o + 4) - told[number]; told[number] = le64(data + o + 4); }
                o += 4 + (((head >> 16) + 3) & ~3u);
            }
        }
        at += length;
    }
    return at;
}

static size_t pcap(size_t at, size_t end) {
    static int begun;
    if (!begun) { if (end - at < 24) return at; at += 24; begun = 1; }
    while (end - at >= 16) {
        uint32_t length = 16 + le(data + at + 8);
        if (length > end - at) break;
        content(data + at + 16);
        at += length;
    }
    return at;
}

static size_t bulk_frame(size_t p) {
    size_t q = p + 28 + 8 * le(data + p + 24), stop = p + 20 + be(data + p + 8);
    for (; q < stop; q += le(data + q + 4)) content(data + q + 28);
    return stop;
}

static void packet_frames(const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        uint32_t word = be(p + 4);
        p += be(p + 8) + (word == 0xA9A90003 ? 20 : word == 0xABCD0002 ? 48 : 12);
        content(p - size);               /* it is the last field in every generation */
    }
}

static size_t raw(size_t at, size_t end) {
    while (end - at >= 48) {
        uint32_t word = be(data + at + 4);
        size_t n = be(data + at + 8) + (word == 0xA9A90003 ? 20 : word == 0xABCD0002 ? 48 : 12);
        if (n > end - at) break;
        uint32_t kind = word == 0xA9A90003 ? be(data + at + 12) >> 16 : 16;
        if (kind == 0x4844) bulk_frame(at);
        if (kind == 16) packet_frames(data + at, data + at + n);      /* others are no packets: a helper says its end */
        at += n;
    }
    return at;
}

static size_t frames(size_t at, size_t end) {
    static int begun;
    if (!begun) { if (end - at < 16) return at; at += 16; begun = 1; }
    while (end - at >= 40) {
        uint32_t kind = le(data + at), length = le(data + at + 4), held = le(data + at + 24);
        uint64_t before = packets;
        if (length > ROOM / 2) { fprintf(stderr, "drain: a record of %u bytes\n", length); exit(1); }
        if (length + 40 > end - at) break;
        if (kind != 1) lost += le64(data + at + 32);
        if (kind == 2) packet_frames(data + at + 40, data + at + 40 + length);
        if (kind == 3)
            for (size_t p = at + 40; p < at + 40 + length;) p = bulk_frame(p);
        if (packets - before != held) { fprintf(stderr, "drain: %u packets announced\n", held); exit(1); }
        at += 40 + length;
    }
    return at;
}

static double percentile(double share) {
    uint64_t left = stamped * share;
    for (int power = 0; power < 64; power++)
        for (int part = 0; part < 64; part++) {
            if (histogram[power][part] > left) return (64.0 + part) * (1ull << power >> 6) / 1000;
            left -= histogram[power][part];
        }
    return worst / 1000.0;
}

int main(int argc, char **argv) {
    int fd = 0;
    size_t have = 0, at;
    uint64_t first = 0, last = 0, in_first = 0;
    size_t (*take)(size_t, size_t);
    if (argc < 4) return 2;
    take = !strcmp(argv[1], "pcap") ? pcap : !strcmp(argv[1], "frames") ? frames
         : !strcmp(argv[1], "raw") ? raw : pcapng;
    size = atol(argv[2]);
    sources = atol(argv[3]);
    if (argc > 4) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, argv[4], sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address)) { perror(argv[4]); return 1; }
    }
    memset(data, 1, sizeof data);
    puts("ready");
    fflush(stdout);
    struct pollfd p = {fd, POLLIN, 0};
    while (!(done >= sources && packets + lost >= total)) {
        ssize_t n = -1;
        if (poll(&p, 1, first ? 10000 : 60000) > 0) n = read(fd, data + have, READ);
        if (n <= 0) break;
        now = clock_ns();
        have += n;
        at = take(0, have);
        memmove(data, data + at, have -= at);
        if (packets) {
            if (!first) { first = now; in_first = packets; }
            last = now;
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"seconds\": %.9f, \"timed\": %llu, \"packets\": %llu, \"lost\": %llu, \"total\": %llu, \"ended\": %s, "
           "\"p50_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f, \"cpu_s\": %.6f}\n",
           (last - first) / 1e9, (unsigned long long)(packets - in_first), (unsigned long long)packets,
           (unsigned long long)lost, (unsigned long long)total,
           done >= sources && packets + lost == total ? "true" : "false",
           percentile(0.5), percentile(0.99), worst / 1000.0,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
