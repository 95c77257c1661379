#pragma once

#include "sluice/base/check.hpp"

#include <cstddef>

namespace sluice {

// What an object inherits to stand in a List. The tag lets it stand in several lists at once.
// The list owns nothing; an object unlinks itself when it dies, so a list never names a dead one.
template <class Tag>
class ListNode {
  public:
    ListNode() = default;
    ~ListNode() { unlink(); }
    // Neighbours hold its address.
    ListNode(const ListNode&) = delete;
    ListNode& operator=(const ListNode&) = delete;

    bool linked() const noexcept { return next_ != nullptr; }

    void unlink() noexcept {
        if (!linked()) return;
        previous_->next_ = next_;
        next_->previous_ = previous_;
        previous_ = next_ = nullptr;
    }

  private:
    template <class, class>
    friend class List;
    ListNode* previous_ = nullptr;
    ListNode* next_ = nullptr;
};

// A doubly linked list through its members: no allocation, removal in O(1) without the list.
template <class T, class Tag>
class List {
  public:
    List() noexcept { head_.previous_ = head_.next_ = &head_; }
    ~List() {
        while (!empty()) front().Node::unlink();
        head_.previous_ = head_.next_ = nullptr;
    }
    List(const List&) = delete;
    List& operator=(const List&) = delete;

    bool empty() const noexcept { return head_.next_ == &head_; }

    // REQUIRES: !empty()
    T& front() noexcept {
        SLUICE_CHECK(!empty());
        return static_cast<T&>(*head_.next_);
    }

    // REQUIRES: !empty()
    T& back() noexcept {
        SLUICE_CHECK(!empty());
        return static_cast<T&>(*head_.previous_);
    }

    // REQUIRES: item stands in no list of this tag
    void push_back(T& item) noexcept {
        Node& node = item;
        SLUICE_CHECK(!node.linked());
        node.previous_ = head_.previous_;
        node.next_ = &head_;
        head_.previous_->next_ = &node;
        head_.previous_ = &node;
    }

    // REQUIRES: !empty()
    T& pop_front() noexcept {
        T& item = front();
        static_cast<Node&>(item).unlink();
        return item;
    }

    // The first one that is wanted, or null.
    template <class Wanted>
    T* find(Wanted wanted) noexcept {
        for (Node* node = head_.next_; node != &head_; node = node->next_)
            if (T& item = static_cast<T&>(*node); wanted(item)) return &item;
        return nullptr;
    }

  private:
    using Node = ListNode<Tag>;
    Node head_;
};

}  // namespace sluice
