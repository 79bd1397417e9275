/* SPDX-License-Identifier: Apache-2.0
 *
 * Write a capture helper in C: a table of callbacks, and hd_run(argc, argv, &table). An example, and what is
 * done for you: docs/writing-a-helper-in-c.md. On the wire: docs/protocol.md.
 *
 * Build: cc -std=c99 -pthread mine.c helperd.c. Needs POSIX threads and the C library, nothing else.
 *
 * Rules:
 *   1. list, probe, open and capture run in a thread of their own and may block. channel_parse, channel_set
 *      and hop run in another, one at a time. The thread that called hd_run answers the server meanwhile.
 *   2. What a callback refuses becomes the answer to the server: return hd_refuse(...).
 *   3. hd_packet and the like return -1 when the helper shall end: clean up and return from capture.
 *   4. A helper is a process: one table, one device, hd_run once.
 */
#ifndef HELPERD_H
#define HELPERD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#define HD_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define HD_PRINTF(text, first)
#endif

enum { HD_DEBUG = 1, HD_INFO = 2, HD_ERROR = 4, HD_ALERT = 8, HD_FATAL = 16 }; /* how loud a message is */

typedef struct hd_definition hd_definition; /* a source definition, "interface:key=value,...", read */
typedef struct hd_list hd_list;             /* what a list callback adds devices to */

/* An option of a definition; a table of them ends with one without a name. */
typedef struct { const char *name, *meaning; } hd_option;

/* What probe and open tell about a device. Texts must stay as they are until capture begins, or are NULL. */
typedef struct {
    int dlt;                         /* libpcap link type of its packets (127: 802.11, radiotap); -1: none */
    const char *hardware;            /* chipset or model */
    const char *capture_interface;   /* the lower-level name, when it differs from the definition's */
    const char *uuid;                /* identity; NULL: made of the helper's type and the interface */
    const char *const *channels;     /* what it can tune to, the last one NULL */
    const char *channel;             /* what it is tuned to */
    const char *const *hop;          /* a hop list to start with, the last one NULL */
    double hop_rate;                 /* hops per second; 0: 5 */
    const char *message, *warning;   /* lines for the user */
} hd_device;

/* What the radio knew of a packet; 0 and NULL: it did not. */
typedef struct {
    int dbm, noise_dbm, rssi, noise_rssi;
    uint64_t khz, rate;              /* centre frequency; data rate in the driver's own units */
    const char *channel;
} hd_radio;

/* Where it was heard: degrees, metres, km/h; fix 2 or 3. */
typedef struct {
    double latitude, longitude, altitude, speed, heading, precision;
    int fix;
    const char *type, *name;
} hd_position;

/* What is known of a packet beside its bytes; what is 0 is not. */
typedef struct {
    uint64_t ns;                     /* nanoseconds since 1970; 0: now */
    uint32_t original;               /* bytes on the air or wire; 0: as many as captured */
    int dlt;                         /* libpcap link type; 0: the device's */
    uint32_t flags;                  /* pcapng's: bits 0 and 1 are the direction, 1 inbound, 2 outbound */
} hd_meta;

/* The author's part of a helper; what is NULL is left out. type, open and capture are needed. */
typedef struct {
    const char *type;                /* the source type it serves, "linuxwifi" */
    const char *summary;             /* one line for --help */
    const char *version;             /* the author's, for --version and the reports */
    const hd_option *options;        /* options of a definition that it understands; others are refused */
    const char *identity;            /* what a UUID starts from; NULL: "helperd_TYPE" */
    int shared;                      /* any number of sources may open one device at a time, as with files */
    size_t ring;                     /* bytes between capture and the server, when more than 327680 */

    /* Each returns 0, or hd_refuse(...); probe 1: mine, 0: not mine; NULL: mine if type= says so. */
    int (*list)(hd_list *devices);   /* the devices there are: hd_list_add for each */
    int (*probe)(const hd_definition *definition, hd_device *device);
    int (*open)(const hd_definition *definition, hd_device *device);
    /* Translate a channel's name once. NULL: every name is good, its value 0. */
    int (*channel_parse)(const char *name, int64_t *value);
    /* Tune and stay (NULL: the device has no channels); tune for one hop (NULL: as to stay). */
    int (*channel_set)(const char *name, int64_t value);
    int (*hop)(const char *name, int64_t value);
    /* Read packets until there are no more, or a call says -1. hd_end, hd_refuse, or after -1 anything. */
    int (*capture)(void);
    void (*close)(void);             /* after capture, in its thread; also after an open that was refused */
} hd_helper;

/* Be a helper, from the command line to the end. Returns the exit status: 0 if the conversation ended as it
 * should, whatever was answered; 1: it did not; 64: a wrong command line; 69: nobody could be reached. */
int hd_run(int argc, char **argv, const hd_helper *helper);

/* For callbacks: say why not, and what to do. problem: a word of docs/protocol.md ("busy", "not-permitted",
 * "device-gone"...), or NULL. hd_refuse_errno makes word and text of an errno. Both return -1. */
int hd_refuse(const char *problem, const char *format, ...) HD_PRINTF(2, 3);
int hd_refuse_errno(int number, const char *what);

/* The definition's interface; an option's value, or NULL; a whole number between two, into *value, which
 * stays when the option is absent (0, or -1: refused); whether true or false is said. */
const char *hd_interface(const hd_definition *definition);
const char *hd_get(const hd_definition *definition, const char *key);
int hd_number(const hd_definition *definition, const char *key, long least, long most, long *value);
int hd_flag(const hd_definition *definition, const char *key, int otherwise);

/* For list: a device, as it stands before a definition's colon; options behind it; chipset or model. */
void hd_list_add(hd_list *devices, const char *interface, const char *flags, const char *hardware);

/* Send one packet; waits when the server does not read fast enough. meta NULL: now, whole, of the device's
 * link type. 0: taken. 1: not taken, and counted. -1: the helper shall end. From the capture thread only. */
int hd_packet(const void *data, size_t captured, const hd_meta *meta);

/* The same, but never waits, for a device that does not: what is not taken (1) is counted: "helper-queue". */
int hd_offer(const void *data, size_t captured, const hd_meta *meta);

/* Send one JSON record (one object) of a kind such as "RTL433"; ns 0: now. Returns as hd_packet. */
int hd_json(const char *kind, const char *text, uint64_t ns);

/* What the radio knew of the next packet or record; where everything from now on is heard (NULL: unknown).
 * From the capture thread, before the call that sends it. */
void hd_signal(const hd_radio *radio);
void hd_gps(const hd_position *position);

/* Show a line to the user; from any thread. */
void hd_message(int severity, const char *format, ...) HD_PRINTF(2, 3);

/* The device lost packets, or they were changed, since the last call: "kernel", "device", "bad-record",
 * "too-long"; or "cut", "bad-stamp", "not-finite" (docs/protocol.md). From the capture thread. */
void hd_lost(uint64_t packets, const char *word);

/* Let everything leave now. Sleep, or stop sleeping when the helper shall end. 0, or -1: it shall end. */
int hd_flush(void);
int hd_wait(double seconds);

/* Whether the helper shall end; a descriptor that becomes readable then, for a poll that waits for both. */
int hd_stopping(void);
int hd_stop_fd(void);

/* Why there are no more packets, for the user: return hd_end("end of %s", file). Returns 0. */
int hd_end(const char *format, ...) HD_PRINTF(1, 2);

#ifdef __cplusplus
}
#endif
#endif
