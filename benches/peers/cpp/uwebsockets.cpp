// Rooms and an echo on uWebSockets 20, its own pub/sub on its own epoll loop: `uwebsockets PORT`. A connection is in the room that
// its path names, and what it says goes to every member as it is; /echo sends back.
//
// The limits are the gateway's: 64 KiB a message, 256 KiB that one client may leave unread, a ping after 24 s of silence (the
// nearest to 25 s that it counts in). uSockets sets TCP_NODELAY itself, and what one turn of the loop has for a member is
// corked into one send.
#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <unordered_set>

namespace {

struct Member {
    // The room's name, owned by `names`: connections of a room share it.
    std::string_view room;
};

// Nodes of a set stay where they are.
std::unordered_set<std::string> names;

template <typename Data>
uWS::App::WebSocketBehavior<Data> limits() {
    uWS::App::WebSocketBehavior<Data> behaviour;
    behaviour.compression = uWS::DISABLED;
    behaviour.maxPayloadLength = 64 * 1024;
    behaviour.maxBackpressure = 256 * 1024;
    behaviour.closeOnBackpressureLimit = true;
    behaviour.idleTimeout = 40;
    behaviour.sendPingsAutomatically = true;
    return behaviour;
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: uwebsockets PORT\n");
        return 2;
    }
    const int port = std::atoi(arguments[1]);
    uWS::App app;

    auto echo = limits<Member>();
    echo.message = [](auto *socket, std::string_view message, uWS::OpCode kind) { socket->send(message, kind); };

    auto rooms = limits<Member>();
    rooms.upgrade = [](auto *response, auto *request, auto *context) {
        Member member{*names.emplace(request->getUrl()).first};
        response->template upgrade<Member>(std::move(member), request->getHeader("sec-websocket-key"),
                                           request->getHeader("sec-websocket-protocol"),
                                           request->getHeader("sec-websocket-extensions"), context);
    };
    rooms.open = [](auto *socket) { socket->subscribe(socket->getUserData()->room); };
    // The application's publish reaches every member; a socket's own would leave its sender out.
    rooms.message = [&app](auto *socket, std::string_view message, uWS::OpCode kind) {
        app.publish(socket->getUserData()->room, message, kind);
    };

    app.ws<Member>("/echo", std::move(echo)).ws<Member>("/*", std::move(rooms));
    app.listen("127.0.0.1", port, [port](auto *listener) {
        if (!listener) {
            std::fprintf(stderr, "uwebsockets: port %d cannot be listened on\n", port);
            std::exit(3);
        }
    });
    app.run();
}
