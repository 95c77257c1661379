#pragma once

// Two network namespaces of their own with a cable between them that a test can cut. Nothing of it is seen by
// the machine's own network, and nothing is left when the object goes. Needs root and ip(8).

#include "tests/support/process.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <stdexcept>
#include <string>
#include <utility>

namespace sluice::test {

enum class Place {
    home,  // where the relay runs
    away,  // at the other end of the cable
};

class Network {
  public:
    inline static const std::string home_address = "10.77.0.1";
    inline static const std::string away_address = "10.77.0.2";

    Network()
        : anchors_{anchor(), anchor()}, ours_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
        for (std::size_t place = 0; place < 2; ++place)
            namespaces_[place] = ::open(
                ("/proc/" + std::to_string(anchors_[place].pid()) + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC);
        const std::string away = std::to_string(anchors_[1].pid());
        usable_ =
            ip(Place::home, {"link", "add", "home", "type", "veth", "peer", "name", "away", "netns", away}) &&
            ip(Place::home, {"addr", "add", home_address + "/24", "dev", "home"}) &&
            ip(Place::away, {"addr", "add", away_address + "/24", "dev", "away"}) &&
            ip(Place::home, {"link", "set", "lo", "up"}) && ip(Place::home, {"link", "set", "home", "up"}) &&
            ip(Place::away, {"link", "set", "away", "up"});
    }
    ~Network() {
        for (const int descriptor : {namespaces_[0], namespaces_[1], ours_})
            if (descriptor >= 0) ::close(descriptor);
    }
    Network(const Network&) = delete;
    Network& operator=(const Network&) = delete;

    bool usable() const { return usable_; }

    // Moves the calling thread (in a child before exec, say) there for good. Async-signal-safe.
    void enter(Place place) const { ::setns(namespaces_[index(place)], CLONE_NEWNET); }

    // Runs the body with the calling thread there: sockets that it makes stay there.
    template <class Body>
    void inside(Place place, Body body) const {
        struct Return {
            int descriptor;
            ~Return() { ::setns(descriptor, CLONE_NEWNET); }
        };
        const Return back{ours_};
        if (::setns(namespaces_[index(place)], CLONE_NEWNET) != 0) throw std::runtime_error("setns failed");
        body();
    }

    // From now on nothing passes, and nobody is told.
    void cut() const {
        if (!ip(Place::away, {"link", "set", "away", "down"}))
            throw std::runtime_error("cannot cut the cable");
    }

  private:
    static std::size_t index(Place place) { return place == Place::home ? 0 : 1; }

    // A process that does nothing but keep a namespace alive.
    static Process anchor() {
        ProcessOptions options;
        options.before_exec = [] { ::unshare(CLONE_NEWNET); };
        return Process({"sleep", "1000"}, options);
    }

    bool ip(Place place, std::vector<std::string> arguments) const {
        ProcessOptions options;
        options.before_exec = [this, place] { enter(place); };
        arguments.insert(arguments.begin(), "ip");
        return run(std::move(arguments), patience, options).exit.success();
    }

    std::array<Process, 2> anchors_;
    std::array<int, 2> namespaces_{-1, -1};
    int ours_;
    bool usable_ = false;
};

}  // namespace sluice::test
