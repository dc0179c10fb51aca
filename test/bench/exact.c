/* Resolve, then connect in the next instruction: is what an answer gave let through, and nothing
 * else?
 *
 *   exact serve ADDRESS                    a resolver there
 *   exact ask RESOLVER ROUNDS THREADS      prints: rounds, wrong refusals, wrong grants, questions
 * asked again exact churn RESOLVER                   asks for what no line names, and for ever new
 * names, until it is killed
 *
 * Names are KIND.NUMBER.good.example, which a line allows, and KIND.NUMBER.other.example. KIND:
 * "now" has a TTL of 0, "soon" of 1, "chain" is behind 30 CNAMEs, "many" has 2,000 addresses, over
 * TCP. There are so many addresses that those of one second are mostly new ones, and so few that
 * the kernel's table has room for all: each zone has its own, and "many" has others than the rest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    HEADER = 12,
    MANY = 2000,
    CHAIN = 30,
    ROOM = 65536,
    NUMBERS = 50000,
    STARTS = 18000,
    PORT = 9999
};

typedef unsigned char byte;

static const char* const KINDS[] = {"now", "soon", "chain", "many"};
static struct sockaddr_in resolver = {.sin_family = AF_INET};
static atomic_long wrong_refusals, wrong_grants, again;
static long rounds;

static uint32_t address_of(int good, int many, int number) {
    return htonl((uint32_t)(44 + !good + 2 * many) << 24 | (uint32_t)number);
}

static int number_of(int many, unsigned* seed) {
    return 1 + rand_r(seed) % (many ? STARTS : NUMBERS);
}

static byte* put16(byte* at, unsigned value) {
    at[0] = (byte)(value >> 8);
    at[1] = (byte)value;
    return at + 2;
}

static byte* put_record(byte* at, unsigned owner, unsigned kind, unsigned ttl, const void* data,
                        unsigned size) {
    at = put16(put16(put16(put16(put16(put16(at, owner), kind), 1), 0), ttl), size);
    memcpy(at, data, size);
    return at + size;
}

/* --- the resolver --- */

static int answer(byte* text, int size, int stream) {
    if (size < HEADER + 5) {
        return 0;
    }
    char kind[8] = "", number[8] = "";
    const byte* label = text + HEADER;
    if (label[0] > 7 || label[1 + label[0]] > 7) {
        return 0;
    }
    memcpy(kind, label + 1, label[0]);
    label += 1 + label[0];
    memcpy(number, label + 1, label[0]);
    label += 1 + label[0];
    const int good = label[0] == 4;
    const int many = strcmp(kind, "many") == 0, chain = strcmp(kind, "chain") == 0;
    int count = many ? MANY : 1;
    byte* at = text + size;
    unsigned owner = 0xc000 | HEADER, records = 0;
    unsigned flags = 0x8180;
    if (many && !stream) {
        flags |= 0x0200; /* truncated */
        count = 0;
    }
    for (int i = 0; chain && i < CHAIN; ++i) {
        const byte target[] = {2, (byte)('a' + i / 10), (byte)('0' + i % 10), 0};
        at = put_record(at, owner, 5, 0, target, sizeof target);
        owner = 0xc000 | (unsigned)(at - text - (long)sizeof target);
        ++records;
    }
    for (int i = 0; i < count; ++i) {
        const uint32_t address = address_of(good, many, atoi(number) + i);
        at = put_record(at, owner, 1, strcmp(kind, "soon") == 0, &address, sizeof address);
        ++records;
    }
    put16(text + 2, flags);
    put16(text + 6, records);
    return (int)(at - text);
}

static int take(int s, byte* to, int size) {
    return recv(s, to, (size_t)size, MSG_WAITALL) == size;
}

static void* serve_stream(void* argument) {
    const int s = (int)(intptr_t)argument;
    byte* const text = malloc(ROOM + 2);
    while (take(s, text, 2)) {
        const int size = text[0] << 8 | text[1];
        if (size > 512 || !take(s, text + 2, size)) {
            break;
        }
        const int full = answer(text + 2, size, 1);
        put16(text, (unsigned)full);
        if (send(s, text, (size_t)full + 2, MSG_NOSIGNAL) < 0) {
            break;
        }
    }
    free(text);
    close(s);
    return NULL;
}

static void* serve_datagrams(void* argument) {
    const int s = (int)(intptr_t)argument;
    byte text[4096];
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        const int size = (int)recvfrom(s, text, 512, 0, (struct sockaddr*)&peer, &length);
        const int full = size > 0 ? answer(text, size, 0) : 0;
        if (full) {
            sendto(s, text, (size_t)full, 0, (struct sockaddr*)&peer, length);
        }
    }
    return NULL;
}

static int serve(void) {
    const int one = 1, room = 4 << 20;
    const int u = socket(AF_INET, SOCK_DGRAM, 0), l = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(u, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(u, (struct sockaddr*)&resolver, sizeof resolver) ||
        bind(l, (struct sockaddr*)&resolver, sizeof resolver) || listen(l, 256)) {
        perror("exact: bind");
        return 1;
    }
    pthread_t thread;
    pthread_create(&thread, NULL, serve_datagrams, (void*)(intptr_t)u);
    puts("ready");
    fflush(stdout);
    for (;;) {
        const int s = accept(l, NULL, NULL);
        if (s >= 0) {
            pthread_create(&thread, NULL, serve_stream, (void*)(intptr_t)s);
            pthread_detach(thread);
        }
    }
}

/* --- who asks --- */

static int question(byte* text, int kind, int number, int good, unsigned id) {
    char digits[8];
    snprintf(digits, sizeof digits, "%d", number);
    const char* const labels[] = {KINDS[kind], digits, good ? "good" : "other", "example"};
    byte* at = put16(put16(put16(put16(put16(put16(text, id), 0x0100), 1), 0), 0), 0);
    for (int i = 0; i < 4; ++i) {
        *at = (byte)strlen(labels[i]);
        memcpy(at + 1, labels[i], *at);
        at += 1 + *at;
    }
    *at++ = 0;
    return (int)(put16(put16(at, 1), 1) - text);
}

/* The addresses are what the question says they are; here the answer only has to have come. */
static int ask_datagram(int s, int kind, int number, int good, unsigned* seed) {
    byte text[4096];
    for (int i = 0; i < 20; ++i) {
        const unsigned id = (unsigned)rand_r(seed) & 0xffff;
        const int size = question(text, kind, number, good, id);
        if (sendto(s, text, (size_t)size, 0, (struct sockaddr*)&resolver, sizeof resolver) < 0) {
            return 0;
        }
        while (recv(s, text, sizeof text, 0) > 0) {
            if ((unsigned)(text[0] << 8 | text[1]) == id) {
                return 1;
            }
        }
        ++again;
    }
    return 0;
}

static int ask_stream(int kind, int number, int good, unsigned* seed) {
    byte text[ROOM + 2];
    const int s = socket(AF_INET, SOCK_STREAM, 0);
    const int size = question(text + 2, kind, number, good, (unsigned)rand_r(seed) & 0xffff);
    put16(text, (unsigned)size);
    const struct timeval patience = {20, 0};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    const int came = !connect(s, (struct sockaddr*)&resolver, sizeof resolver) &&
                     send(s, text, (size_t)size + 2, MSG_NOSIGNAL) > 0 && take(s, text, 2) &&
                     take(s, text, text[0] << 8 | text[1]);
    close(s);
    return came;
}

/* Whether the address can be reached: by a datagram, and now and then by a connection. */
static int goes(int s, uint32_t address, int connects) {
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = address};
    if (!connects) {
        return sendto(s, "x", 1, 0, (const struct sockaddr*)&to, sizeof to) == 1 || errno != EPERM;
    }
    const int one = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int gone = connect(one, (const struct sockaddr*)&to, sizeof to) == 0 || errno != EPERM;
    close(one);
    return gone;
}

static void check(int s, int good, int kind, int number, int connects) {
    if (goes(s, address_of(good, kind == 3, number), connects) != good) {
        ++*(good ? &wrong_refusals : &wrong_grants);
        fprintf(stderr, "exact: wrong %s: %s, %d\n", good ? "refusal" : "grant", KINDS[kind],
                number);
    }
}

static int new_socket(void) {
    const struct timeval patience = {2, 0};
    const int s = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return s;
}

static void* ask(void* argument) {
    unsigned seed = (unsigned)(intptr_t)argument * 7919u + 1;
    int s = new_socket();
    for (long round = 0; round < rounds; ++round) {
        const int good = rand_r(&seed) % 8 != 0, connects = rand_r(&seed) % 8 == 0;
        const int kind = rand_r(&seed) % 5000 == 0 ? 3 : rand_r(&seed) % 3;
        const int number = number_of(kind == 3, &seed);
        if (round % 64 == 63) {
            close(s);
            s = new_socket(); /* another port */
        }
        if (!(kind == 3 ? ask_stream(kind, number, good, &seed)
                        : ask_datagram(s, kind, number, good, &seed))) {
            fprintf(stderr, "exact: no answer for %s.%d: %s\n", KINDS[kind], number,
                    strerror(errno));
            exit(1);
        }
        check(s, good, kind, number, connects);
        if (kind == 3) {
            check(s, good, 3, number + MANY - 1, connects);
            check(s, good, 3, number + rand_r(&seed) % MANY, connects);
        }
        check(s, 0, 0, number_of(0, &seed), 0); /* what no line names, asked for or not */
    }
    close(s);
    return NULL;
}

static int ask_all(int threads) {
    pthread_t started[256];
    for (intptr_t i = 0; i < threads; ++i) {
        pthread_create(&started[i], NULL, ask, (void*)(i + 1));
    }
    for (int i = 0; i < threads; ++i) {
        pthread_join(started[i], NULL);
    }
    printf("%ld %ld %ld %ld\n", rounds * threads, (long)wrong_refusals, (long)wrong_grants,
           (long)again);
    return 0;
}

static void churn(void) {
    unsigned seed = 4711;
    const int s = new_socket();
    for (int i = 0;; ++i) {
        if (i % 200 == 0) {
            ask_stream(3, number_of(1, &seed), i % 400 != 0, &seed);
        }
        ask_datagram(s, i % 3, number_of(0, &seed), i % 4 == 0, &seed);
    }
}

int main(int count, char** words) {
    if (count < 3 || inet_pton(AF_INET, words[2], &resolver.sin_addr) != 1) {
        fputs("usage: exact serve ADDRESS | ask RESOLVER ROUNDS THREADS | churn RESOLVER\n",
              stderr);
        return 2;
    }
    resolver.sin_port = htons(53);
    if (strcmp(words[1], "serve") == 0) {
        return serve();
    }
    if (strcmp(words[1], "churn") == 0) {
        churn();
    }
    const int threads = count > 4 ? atoi(words[4]) : 0;
    if (threads < 1 || threads > 256) {
        fputs("exact: 1 to 256 threads\n", stderr);
        return 2;
    }
    rounds = atol(words[3]) / threads;
    return ask_all(threads);
}
