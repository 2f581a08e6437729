// Rooms and an echo on uWebSockets, its own pub/sub, without an interpreter: `uwebsockets PORT`. A connection is in the room that
// its path names, and what it says goes to every member as it is; /echo sends back.
//
// uWebSockets is published outside of the package registries; what can be had there is the library that Python's socketify
// carries: uWebSockets 20 behind C functions, on libuv's event loop instead of its own epoll. Declared here is only what is
// called, as that library has it.
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct App App;
typedef struct Socket Socket;
typedef struct Response Response;
typedef struct Request Request;
typedef struct Context Context;

struct tls_options {
    const char *key, *certificate, *passphrase, *parameters, *authority, *ciphers;
    int low_memory;
};

struct behaviour {
    int compression;
    unsigned int max_payload_bytes;
    unsigned short idle_timeout_s;
    unsigned int max_backpressure_bytes;
    bool close_on_backpressure;
    bool sending_resets_idle;
    bool send_pings;
    unsigned short max_lifetime;
    void (*upgrade)(Response *, Request *, Context *, void *);
    void (*open)(Socket *, void *);
    void (*message)(Socket *, const char *, size_t, int, void *);
    void (*drain)(Socket *, void *);
    void (*ping)(Socket *, const char *, size_t, void *);
    void (*pong)(Socket *, const char *, size_t, void *);
    void (*close)(Socket *, int, const char *, size_t, void *);
    void (*subscription)(Socket *, const char *, size_t, int, int, void *);
};

struct listen_at {
    int port;
    const char *host;
    int options;
};

void *socketify_create_loop(void);
void *socketify_get_native_loop(void *loop);
int socketify_loop_run(void *loop, int mode);
void *uws_get_loop_with_native(void *native);
App *uws_create_app(int tls, struct tls_options);
void uws_ws(int tls, App *, const char *pattern, struct behaviour, void *user);
void uws_app_listen_with_config(int tls, App *, struct listen_at, void (*)(void *, struct listen_at, void *), void *user);
size_t uws_req_get_url(Request *, const char **);
size_t uws_req_get_header(Request *, const char *name, size_t length, const char **);
void uws_res_upgrade(int tls, Response *, void *user, const char *key, size_t, const char *protocol, size_t, const char *extensions,
                     size_t, Context *);
void *uws_ws_get_user_data(int tls, Socket *);
bool uws_ws_subscribe(int tls, Socket *, const char *room, size_t length);
int uws_ws_send(int tls, Socket *, const char *, size_t, int opcode);
bool uws_publish(int tls, App *, const char *room, size_t, const char *, size_t, int opcode, bool compress);

static App *app;

// The rooms' names, once each: connections point to theirs.
static char *names[65536];

static char *name_of(const char *url, size_t length) {
    unsigned hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)url[i]) * 16777619u;
    unsigned slot = hash % 65536;
    while (names[slot] && (strlen(names[slot]) != length || memcmp(names[slot], url, length))) slot = (slot + 1) % 65536;
    if (!names[slot]) names[slot] = strndup(url, length);
    return names[slot];
}

static void upgrade(Response *response, Request *request, Context *context, void *user) {
    (void)user;
    const char *url, *key, *protocol, *extensions;
    size_t url_length = uws_req_get_url(request, &url);
    size_t key_length = uws_req_get_header(request, "sec-websocket-key", 17, &key);
    size_t protocol_length = uws_req_get_header(request, "sec-websocket-protocol", 22, &protocol);
    size_t extensions_length = uws_req_get_header(request, "sec-websocket-extensions", 24, &extensions);
    uws_res_upgrade(0, response, name_of(url, url_length), key, key_length, protocol, protocol_length, extensions, extensions_length,
                    context);
}

static void open_room(Socket *socket, void *user) {
    (void)user;
    const char *room = uws_ws_get_user_data(0, socket);
    uws_ws_subscribe(0, socket, room, strlen(room));
}

static void publish(Socket *socket, const char *message, size_t length, int opcode, void *user) {
    (void)user;
    const char *room = uws_ws_get_user_data(0, socket);
    // The application's publish reaches every member; a socket's own would leave its sender out.
    uws_publish(0, app, room, strlen(room), message, length, opcode, false);
}

static void echo(Socket *socket, const char *message, size_t length, int opcode, void *user) {
    (void)user;
    uws_ws_send(0, socket, message, length, opcode);
}

static void listening(void *socket, struct listen_at at, void *user) {
    (void)user;
    if (!socket) {
        fprintf(stderr, "uwebsockets: port %d cannot be listened on\n", at.port);
        exit(3);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: uwebsockets PORT\n");
        return 2;
    }
    void *loop = socketify_create_loop();
    uws_get_loop_with_native(socketify_get_native_loop(loop));
    app = uws_create_app(0, (struct tls_options){0});
    struct behaviour rooms = {
        .max_payload_bytes = 64 * 1024,
        // Pings go out well before.
        .idle_timeout_s = 32,
        .max_backpressure_bytes = 256 * 1024,
        .send_pings = true,
        .upgrade = upgrade,
        .open = open_room,
        .message = publish,
    };
    struct behaviour echoes = rooms;
    echoes.open = NULL;
    echoes.message = echo;
    uws_ws(0, app, "/echo", echoes, NULL);
    uws_ws(0, app, "/*", rooms, NULL);
    uws_app_listen_with_config(0, app, (struct listen_at){.port = atoi(arguments[1]), .host = "127.0.0.1"}, listening, NULL);
    return socketify_loop_run(loop, 0);
}
