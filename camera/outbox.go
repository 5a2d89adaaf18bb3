package camera

import "sync"

// message is one thing to do in its turn; exactly one field is set.
type message struct {
	reply   *reply // publish it, until it is acknowledged
	raw     []byte // publish this garbage, once
	cut     bool   // cut the connection
	restart bool   // restart the camera
}

// outbox keeps messages in order until they are done, over any number of connections. Many may put; one session at a
// time takes.
type outbox struct {
	mu       sync.Mutex
	messages []message
	wake     chan struct{} // holds one token after a put
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) put(messages ...message) {
	o.mu.Lock()
	o.messages = append(o.messages, messages...)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default: // a token is there already
	}
}

// full reports whether no new command should be taken. Replies of running commands still find room.
func (o *outbox) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.messages) >= maxUnsent
}

// first returns the oldest message and leaves it there.
func (o *outbox) first() (message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.messages) == 0 {
		return message{}, false
	}
	return o.messages[0], true
}

// drop removes the oldest message.
func (o *outbox) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages[0] = message{} // let the picture go
	o.messages = o.messages[1:]
	if len(o.messages) == 0 {
		o.messages = nil // an idle camera keeps no array
	}
}
