package broker

import (
	"fmt"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/device"
)

// What the limits of a Config may be, and what they are where it does not say.
const (
	defaultStore     = 16 << 30
	defaultReplies   = 1000
	defaultBytes     = 16 << 20
	defaultRetention = 24 * time.Hour

	leastStore      = 1 << 30
	mostReplies     = 1_000_000
	leastBytes      = device.MaxReplyBytes // of one request, so that its replies fit together
	leastRetention  = time.Minute
	mostRetention   = 30 * 24 * time.Hour
	leastKept       = 24 * time.Hour
	mostKept        = 366 * 24 * time.Hour
	leastRecords    = 1000
	mostRecords     = 1_000_000 // more than can be listed in time (I7)
	mostConnections = 1_000_000
	mostConnectRate = 100_000

	defaultConnections = 20_000
	leastSpareFiles    = 256
)

// withDefaults fills in the limits that are not given.
func (c Config) withDefaults() Config {
	for _, limit := range []struct {
		value    *int64
		standard int64
	}{{&c.MaxStore, defaultStore}, {&c.MaxBytes, defaultBytes}, {&c.MaxRequests, requests.DefaultRecords}} {
		if *limit.value == 0 {
			*limit.value = limit.standard
		}
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultConnections
	}
	if c.MaxReplies == 0 {
		c.MaxReplies = defaultReplies
	}
	if c.Retention == 0 {
		c.Retention = defaultRetention
	}
	if c.KeepRequests == 0 {
		c.KeepRequests = requests.DefaultKeep
	}
	return c
}

// Validate refuses limits with which the broker could not work.
func (c Config) Validate() error {
	c = c.withDefaults()
	within := func(what string, value, least, most int64) error {
		if value < least || value > most {
			return fmt.Errorf("%s must be from %d to %d, not %d", what, least, most, value)
		}
		return nil
	}
	lasting := func(what string, value, least, most time.Duration) error {
		if value < least || value > most {
			return fmt.Errorf("%s must be from %s to %s, not %s", what, least, most, value)
		}
		return nil
	}
	for _, err := range []error{
		within("the number of unread replies of one device", int64(c.MaxReplies), 1, mostReplies),
		within("the bytes of unread replies of one device", c.MaxBytes, leastBytes, 1<<40),
		lasting("the time that an unread reply is kept", c.Retention, leastRetention, mostRetention),
		within("the number of request records", c.MaxRequests, leastRecords, mostRecords),
		lasting("the time that a request record is kept", c.KeepRequests, max(leastKept, c.Retention), mostKept),
		within("the number of connections", int64(c.MaxConnections), 1, mostConnections),
		within("the number of devices that connect in a second", int64(c.ConnectRate), 0, mostConnectRate),
	} {
		if err != nil {
			return err
		}
	}
	if least := c.leastStore(); c.MaxStore < least {
		return fmt.Errorf("a store of %s is too small for %d request records and queues of %s: the smallest that works is %s",
			inUnits(c.MaxStore), c.MaxRequests, inUnits(c.MaxBytes), inUnits(least))
	}
	return nil
}

// connections is how many devices may be connected where the process may have so many files open; 0: not known. A quarter
// of them is for the store and for the callers: devices alone must never keep the store from opening its files (F17).
func (c Config) connections(files int) int {
	if files == 0 {
		return c.MaxConnections
	}
	return max(1, min(c.MaxConnections, files-max(leastSpareFiles, files/4)))
}

// leastStore is the smallest store in which every part has the room that it promises.
func (c Config) leastStore() int64 {
	return max(leastStore, 4*requests.StoreBytes(c.MaxRequests), 2*c.MaxBytes)
}

// shares are the bytes that the parts may have on disk. Request records have what their number takes, at most a quarter;
// what nobody has, about a tenth at least, is for devices and enrolment codes.
type shares struct{ queue, held, keys, presence int64 }

func sharesOf(store int64) shares {
	return shares{queue: store / 2, held: store / 16, keys: store / 64, presence: store / 64} // the queue's marks: an eighth of it
}

// inUnits writes bytes as people do, rounded up.
func inUnits(n int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.bytes {
			tenths := (n*10 + unit.bytes - 1) / unit.bytes
			if tenths%10 == 0 {
				return fmt.Sprintf("%d %s", tenths/10, unit.name)
			}
			return fmt.Sprintf("%d.%d %s", tenths/10, tenths%10, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
