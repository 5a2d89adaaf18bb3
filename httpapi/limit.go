package httpapi

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"signaldevice/device"
)

// Limits of calls. The rate of one client is configured.
const (
	defaultBurst = 100

	enrolRate  = 10 // enrolments a second from one address
	enrolBurst = 20

	maxBuckets = 10_000 // clients or addresses whose rate is remembered
)

// rateLimiter gives each key a token bucket. It remembers a bounded number of keys and forgets the one that was not
// seen for the longest: its bucket is then almost always full, so that nothing is lost. A nil rateLimiter limits
// nothing. It is safe for concurrent use.
type rateLimiter struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	buckets map[string]*list.Element
	order   *list.List // of *bucket, the one seen last in front
}

type bucket struct {
	key    string
	tokens *rate.Limiter
}

func newRateLimiter(perSecond float64, burst int) *rateLimiter {
	return &rateLimiter{
		perSecond: rate.Limit(perSecond),
		burst:     burst,
		buckets:   map[string]*list.Element{},
		order:     list.New(),
	}
}

// take spends one call of the key, or refuses with the time after which one is there again.
func (l *rateLimiter) take(key string, now time.Time) error {
	if l == nil {
		return nil
	}
	tokens := l.bucket(key)
	reserved := tokens.ReserveN(now, 1)
	wait := reserved.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	reserved.CancelAt(now)
	return &device.Error{
		Kind:       device.RateLimited,
		Message:    "too many calls in a short time: see the header Retry-After",
		RetryAfter: wait,
	}
}

func (l *rateLimiter) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.buckets[key]; ok {
		l.order.MoveToFront(e)
		return e.Value.(*bucket).tokens
	}
	if l.order.Len() == maxBuckets {
		oldest := l.order.Remove(l.order.Back()).(*bucket)
		delete(l.buckets, oldest.key)
	}
	b := &bucket{key: key, tokens: rate.NewLimiter(l.perSecond, l.burst)}
	l.buckets[key] = l.order.PushFront(b)
	return b.tokens
}

// addressKey names who calls without a token: an IPv4 address, or the /64 that one IPv6 customer has. It is the address
// of the connection; X-Forwarded-For can be written by anybody.
func addressKey(remoteAddr string) string {
	ap, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return remoteAddr // a test, or a listener of another kind
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr.String()
}
