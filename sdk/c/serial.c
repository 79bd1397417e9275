/* SPDX-License-Identifier: Apache-2.0
 *
 * serial: a sniffer on a serial line, whose packets come in frames of SLIP (RFC 1055): each ends with a byte C0; C0 inside
 * is sent as DB DC, DB as DB DD. Before the packet stand 3 bytes: channel, signal (signed, dBm), and the XOR of all the others.
 *
 *     /dev/ttyUSB0:type=serial,baudrate=115200,dlt=195            195: IEEE 802.15.4 with FCS
 *
 * To tune, the sniffer is sent one frame: the letter c and the channel, 11 to 26.
 */
#define _DEFAULT_SOURCE
#include "helperd.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

enum { LONGEST = 2048, END = 0xC0, ESC = 0xDB };

#ifndef TYPE
#define TYPE "serial" /* under a Kismet server: the type that it stands in for */
#endif

static int line = -1;
static const char *const CHANNELS[] = {"11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24",
                                       "25", "26", NULL};

static int list(hd_list *devices)
{
    glob_t found;
    size_t at;
    if (glob("/dev/ttyUSB*", 0, NULL, &found) == 0 || glob("/dev/ttyACM*", GLOB_APPEND, NULL, &found) == 0)
        for (at = 0; at < found.gl_pathc; at++) hd_list_add(devices, found.gl_pathv[at], NULL, "a serial line");
    globfree(&found);
    return 0;
}

static speed_t speed_of(long baudrate)
{
    switch (baudrate) {
    case 9600: return B9600;
    case 57600: return B57600;
    case 115200: return B115200;
    case 230400: return B230400;
    default: return B0;
    }
}

static int open_line(const hd_definition *definition, hd_device *device)
{
    struct termios raw;
    long baudrate = 115200, dlt = 195;
    const char *path = hd_interface(definition);
    if (hd_number(definition, "baudrate", 1, 4000000, &baudrate) || hd_number(definition, "dlt", 1, 65535, &dlt)) return -1;
    if (speed_of(baudrate) == B0)
        return hd_refuse("bad-definition", "baudrate=%ld: 9600, 57600, 115200 and 230400 are there", baudrate);
    line = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (line < 0) return hd_refuse_errno(errno, path);
    if (tcgetattr(line, &raw)) return hd_refuse("open-refused", "%s is no serial line", path);
    cfmakeraw(&raw);
    cfsetspeed(&raw, speed_of(baudrate));
    raw.c_cflag |= CLOCAL | CREAD;
    if (tcsetattr(line, TCSANOW, &raw)) return hd_refuse_errno(errno, path);
    tcflush(line, TCIOFLUSH);
    device->dlt = (int)dlt;
    device->hardware = "a sniffer on a serial line";
    device->channels = CHANNELS;
    return 0;
}

static int channel_parse(const char *name, int64_t *value)
{
    char *after;
    *value = strtol(name, &after, 10);
    return *after || *value < 11 || *value > 26 ? hd_refuse("not-supported", "'%s' is no channel; 11 to 26 are", name) : 0;
}

static int channel_set(const char *name, int64_t value)
{
    unsigned char order[] = {'c', (unsigned char)value, END};
    (void)name;
    return write(line, order, sizeof order) == (ssize_t)sizeof order ? 0 : hd_refuse_errno(errno, "the line takes no orders");
}

/* One frame without its escapes. 0, or -1: the helper shall end. */
static int take(const unsigned char *frame, size_t size)
{
    unsigned char sum = 0;
    char channel[8];
    hd_radio radio = {0};
    for (size_t at = 0; at < size; at++) sum ^= frame[at];
    if (size < 4 || sum) {
        hd_lost(1, "bad-record");
        return 0;
    }
    snprintf(channel, sizeof channel, "%d", frame[0]);
    radio.channel = channel;
    radio.dbm = (signed char)frame[1];
    hd_signal(&radio);
    return hd_packet(frame + 3, size - 3, NULL) < 0 ? -1 : 0;
}

static int capture(void)
{
    static unsigned char frame[LONGEST], got[4096];
    struct pollfd on[2] = {{line, POLLIN, 0}, {hd_stop_fd(), POLLIN, 0}};
    size_t size = 0;
    int escaped = 0, whole = 1;
    while (poll(on, 2, -1) >= 0 || errno == EINTR) {
        ssize_t bytes = 0, at;
        if (on[1].revents) return 0;
        bytes = read(line, got, sizeof got);
        if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (bytes <= 0) return hd_refuse("device-gone", "the serial line is gone");
        for (at = 0; at < bytes; at++) {
            int byte = got[at];
            if (byte == END) {
                if (!whole) hd_lost(1, "bad-record");
                else if (size && take(frame, size)) return 0;
                size = 0, escaped = 0, whole = 1;
            } else if (byte == ESC) {
                escaped = 1;
            } else if (size == LONGEST) {
                whole = 0;
            } else {
                frame[size++] = (unsigned char)(!escaped ? byte : byte == 0xDC ? END : ESC);
                escaped = 0;
            }
        }
    }
    return hd_refuse_errno(errno, "poll");
}

int main(int argc, char **argv)
{
    static const hd_option OPTIONS[] = {{"baudrate", "bits a second: 9600, 57600, 115200 (default) or 230400"},
                                        {"dlt", "libpcap link type of the packets; default 195, IEEE 802.15.4"},
                                        {NULL, NULL}};
    static const hd_helper HELPER = {.type = TYPE, .summary = "a sniffer on a serial line", .version = "1",
                                     .options = OPTIONS, .list = list, .open = open_line, .channel_parse = channel_parse,
                                     .channel_set = channel_set, .capture = capture};
    return hd_run(argc, argv, &HELPER);
}
