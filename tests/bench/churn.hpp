#pragma once

#include "tests/bench/load.hpp"
#include "tests/bench/options.hpp"

#include <cstdint>
#include <vector>

namespace sluice::bench {

// Connect, a question and its answer, close by the client: a fixed number of connections under way, a new one
// for each that has ended.
class Churn : public Load {
  public:
    explicit Churn(const Options& options);

    bool open() override;
    void start() override;
    bool turn() override;
    void stop() override;
    bool settled() const override;

  private:
    struct Client {
        OwnedFd socket;
        std::uint64_t serial = 0;
        std::size_t arrived_bytes = 0;
        bool asking = false;  // still to be sent, once connected
        Time asked;           // since before the connect
    };
    struct Server {
        OwnedFd socket;
        std::size_t arrived_bytes = 0;
        bool answered = false;
    };

    void dial(std::uint32_t slot);
    void send_question(Client& client, std::uint32_t slot);
    void handle_client(std::uint32_t slot, std::uint32_t events);
    void handle_server(std::uint32_t slot);
    void accept_all();
    void watch(int operation, int socket, std::uint64_t name, std::uint32_t events);
    void end_client(std::uint32_t slot, const char* what, int error);
    void end_server(std::uint32_t slot);

    const Options options_;
    OwnedFd listening_;
    OwnedFd epoll_;
    std::vector<Client> clients_;
    std::vector<std::uint32_t> idle_clients_;  // without a socket
    std::vector<Server> servers_;
    std::vector<std::uint32_t> free_servers_;
    std::vector<SocketAddress> sources_;
    std::uint64_t dialled_ = 0;
    bool stopped_ = false;
    std::vector<char> scratch_;
};

}  // namespace sluice::bench
