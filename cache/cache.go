// Package cache keeps replies until their client has read them: in this process's memory, or in Redis 7 or Valkey 8.
//
// Memory and Redis implement dispatch.Cache and pass one suite, package cachetest. A record is one reply. It lives for
// the cache's TTL, counted from its write to the millisecond. Its first read starts the grace, in which the same
// client can read it again by its request; then the body goes, and a mark stays until the record's own expiry, so that
// a duplicate does not come back. A mailbox never sees another's records (I3).
//
// The package does not decide when a reply may leave the output queue: Durable says what it needs to know (I2). It
// retries no write. Both implementations are safe for concurrent use.
package cache

import (
	"context"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// DefaultTTL is how long a record lives where the configuration says nothing.
const DefaultTTL = time.Hour

// One Take is bounded: all of one request fits, and others who share the connection to Redis do not wait for long. What
// it leaves stays unread and comes with the next one, oldest first; replies in their grace come after the unread ones,
// so that re-reading cannot hold new ones up.
const (
	maxTakeReplies = 100     // without ids; with ids, their own number and device.MaxRepliesPerRequest bound it
	maxTakeBytes   = 2 << 20 // of records; a single larger one still comes
)

// maxTakeIDs bounds the requests that one Take may name.
const maxTakeIDs = 100

// maxRequestID is the longest request id in bytes that a record may have. Real ones have device.RequestIDLen.
const maxRequestID = 255

var (
	_ dispatch.Cache = (*Memory)(nil)
	_ dispatch.Cache = (*Redis)(nil)
)

// checkPut reports what is wrong with the replies of a Put, or with its context. Nothing was stored then.
func checkPut(ctx context.Context, replies []device.Reply) error {
	for _, r := range replies {
		if r.Request == "" || len(r.Request) > maxRequestID {
			return device.Errorf(device.Invalid, "cache: put: a reply's request id must have 1 to %d bytes", maxRequestID)
		}
	}
	return checkContext(ctx, "put")
}

// checkTake reports what is wrong with a Take, or with its context. Nothing was taken then.
func checkTake(ctx context.Context, q dispatch.Take) error {
	if len(q.IDs) > maxTakeIDs {
		return device.Errorf(device.Invalid, "cache: take: at most %d request ids", maxTakeIDs)
	}
	return checkContext(ctx, "take")
}

// checkContext reports a context that had ended before the call began.
func checkContext(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return unavailable(op, err)
	}
	return nil
}

// byMailbox returns the places of each mailbox's replies, in order of first appearance.
func byMailbox(replies []device.Reply) [][]int {
	var groups [][]int
	at := map[device.Mailbox]int{}
	for i, r := range replies {
		g, ok := at[r.Mailbox]
		if !ok {
			g = len(groups)
			at[r.Mailbox] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// distinct returns the ids without repetitions, in order of first appearance.
func distinct(ids []device.RequestID) []device.RequestID {
	seen := make(map[device.RequestID]bool, len(ids))
	var once []device.RequestID
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			once = append(once, id)
		}
	}
	return once
}
