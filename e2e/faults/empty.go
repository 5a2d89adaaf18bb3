package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"signaldevice/device"
)

// Both scripts return every string in Redis, and so every record. Nothing comes between reading and removing them.
const (
	listStrings  = `local r = {} for _, k in ipairs(redis.call('KEYS', '*')) do if redis.call('TYPE', k).ok == 'string' then r[#r+1] = redis.call('GET', k) end end `
	listRecords  = listStrings + `return r`
	flushRecords = listStrings + `redis.call('FLUSHALL') return r`
)

// emptied runs one of the scripts and notes what it found: these replies, and no others, may be lost by what follows.
func (r *run) emptied(ctx context.Context, script string) error {
	db, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.redis.Addr()}, DisableCache: true, DisableRetry: true})
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer db.Close()
	found, err := db.Do(ctx, db.B().Eval().Script(script).Numkeys(0).Build()).AsStrSlice()
	if err != nil {
		return fmt.Errorf("redis: list of records: %w", err)
	}
	var slots []slot
	for _, record := range found {
		if s, ok := slotOf(record); ok {
			slots = append(slots, s)
		}
	}
	r.journal.note(func(j *journal) {
		j.emptied = append(j.emptied, time.Now())
		for _, s := range slots {
			j.dropped[s] = true
		}
	})
	return nil
}

// slotOf tells whose record it is: its request id is in it, followed by its seq.
func slotOf(record string) (s slot, ok bool) {
	at := strings.Index(record, device.RequestIDPrefix)
	if at < 0 || len(record) < at+device.RequestIDLen {
		return s, false
	}
	end := at + device.RequestIDLen
	seq, n := binary.Varint([]byte(record[end:]))
	return slot{record[at:end], int(seq)}, n > 0
}

// flushRedis empties a Redis that goes on.
func flushRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	const times = 3
	for range times {
		if err := r.emptied(ctx, flushRecords); err != nil {
			return "", err
		}
		hold(ctx, d/times)
	}
	return "", nil
}

// restartRedis restarts Redis twice: with its append-only file, which loses nothing, and without it, which loses what was
// in it. Before each it is a replica without a master, which answers reads and refuses writes.
func restartRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	for _, empty := range []bool{false, true} {
		if err := r.redisDo("REPLICAOF 127.0.0.1 1"); err != nil {
			return "", err
		}
		hold(ctx, d/4)
		if empty {
			if err := r.emptied(ctx, listRecords); err != nil {
				return "", err
			}
		}
		r.killed()
		r.redis.Kill()
		var err error
		if empty {
			err = os.RemoveAll(filepath.Join(r.redis.Dir(), "appendonlydir"))
		}
		hold(ctx, d/4)
		if err := errors.Join(err, r.redis.Restart()); err != nil {
			return "", err
		}
	}
	return "", nil
}
