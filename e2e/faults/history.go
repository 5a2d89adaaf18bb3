package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxFollowed bounds how many requests have a history: more than a run of half an hour at 200 exchanges a second has.
// Those that come after so many have none, and the report says how many they were.
const maxFollowed = 400_000

// place is where a client's replies from one device are.
type place struct{ client, device string }

// given is one reply that a call gave.
type given struct {
	seq  int
	hash string
}

// glimpse is what one call by one client told of one request.
type glimpse struct {
	client string
	span   // from the call's begin until its answer
	given  []given
	final  bool // the final reply is among them
	kind   glimpseKind
	told   string // of the request: its state, or why there was no answer
}

type glimpseKind int

const (
	some  glimpseKind = iota // tells only what it gave
	all                      // tells that what it did not give is not there
	blind                    // nobody knows what it did: it may have read
)

// history is what clients saw, by request. It is safe for concurrent use until it is judged.
type history struct {
	mu       sync.Mutex
	requests map[string][]glimpse
	without  map[string]bool  // requests that came after so many
	blind    map[place][]span // calls that asked for no request by its id, and of which nobody knows what they did
}

func newHistory() *history {
	return &history{requests: map[string][]glimpse{}, without: map[string]bool{}, blind: map[place][]span{}}
}

// saw notes a poll, or a send that waited, with its answer. ids are the requests that it asked for; got is empty where
// r is no good answer.
func (h *history) saw(who client, device string, ids []string, r result, got *replies) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := span{r.began, r.began.Add(r.took)}
	if r.status != http.StatusOK { // 202: a send whose wait may have lost what it read
		h.sawNothing(place{who.name, device}, ids, at, strings.TrimSpace(fmt.Sprint(r.status, " ", r.code, r.err)))
		return
	}
	seen := map[string]*glimpse{}
	for _, id := range ids {
		state := got.state(id)
		seen[id] = &glimpse{client: who.name, span: at, kind: claim(state, r.degraded != ""), told: strings.TrimSpace(state + " " + r.degraded)}
	}
	for _, one := range got.Replies {
		g := seen[one.RequestID]
		if g == nil {
			g = &glimpse{client: who.name, span: at}
			seen[one.RequestID] = g
		}
		g.given = append(g.given, given{one.Seq, hashOf(one.Result)})
		g.final = g.final || one.Final
	}
	for id, g := range seen {
		h.add(id, *g)
	}
}

// sawNothing notes a call of which nobody knows what it did.
func (h *history) sawNothing(where place, ids []string, at span, told string) {
	for _, id := range ids {
		h.add(id, glimpse{client: where.client, span: at, kind: blind, told: told})
	}
	if len(ids) == 0 {
		h.blind[where] = append(h.blind[where], at)
	}
}

func (h *history) add(id string, g glimpse) {
	if _, followed := h.requests[id]; followed || len(h.requests) < maxFollowed {
		h.requests[id] = append(h.requests[id], g)
		return
	}
	h.without[id] = true
}

// claim says what a state tells of the replies that did not come with it. "answered" says that there is one which was
// not found, and an instance that misses a dependency knows no better of a request that may still be answered.
func claim(state string, degraded bool) glimpseKind {
	switch state {
	case "no_reply", "expired", "cancelled", "already_read", "gone", "not_found":
		return all
	case "sent", "held", "delivered", "progress":
		if !degraded {
			return all
		}
	}
	return blind
}

// until returns the moment at which a fault could have no effect any more.
func (f faultSpan) until() time.Time {
	recovered := f.recovered
	if recovered < 0 {
		recovered = recoverWithin
	}
	return f.to.Add(recovered + settling)
}
