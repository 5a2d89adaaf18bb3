package camera

import "sync"

// history remembers the last requests with their replies, so that a second copy of a command is answered with the same
// replies and not executed again. It holds at most maxHistory requests; the oldest makes room. Replies are kept as
// values, a picture as what it shows, so an entry takes bytes, not a picture's kilobytes.
type history struct {
	mu       sync.Mutex
	requests map[string]*remembered
	order    []string // a ring once it is full
	oldest   int
}

type remembered struct {
	replies []reply
	done    bool // the final reply is among them
}

// begin notes a request. For a known one it returns false and, once it is answered, its replies.
func (h *history) begin(id string) (earlier []reply, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r, ok := h.requests[id]; ok {
		if !r.done {
			return nil, false // its replies are still to come
		}
		return r.replies, false
	}
	if h.requests == nil {
		h.requests = make(map[string]*remembered)
	}
	if len(h.order) < maxHistory {
		h.order = append(h.order, id)
	} else {
		delete(h.requests, h.order[h.oldest])
		h.order[h.oldest] = id
		h.oldest = (h.oldest + 1) % maxHistory
	}
	h.requests[id] = &remembered{}
	return nil, true
}

// add notes a reply to a request, unless the request has been forgotten meanwhile.
func (h *history) add(r reply) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.requests[r.RequestID]; ok {
		known.replies = append(known.replies, r)
		known.done = r.Final
	}
}
