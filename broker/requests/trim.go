package requests

import (
	"context"
	"time"
)

const (
	trimEvery = 5 * time.Second
	trimChunk = 500
)

// trimLoop keeps the number of records at the limit.
func (s *Store) trimLoop(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		if err := s.trim(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("request records over the limit not dropped", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// trim drops the oldest finished records while there are more than the limit. One that is still open is written once
// more instead, so that the stream, which drops from its beginning at a second limit, does not come to it either.
func (s *Store) trim(ctx context.Context) error {
	for rewritten := 0; rewritten < trimChunk; { // else nearly all are open: next time
		n, err := s.cfg.Engine.Count(ctx, streamName)
		if err != nil {
			return err
		}
		over := int64(n) - s.cfg.MaxRecords
		if over <= 0 {
			return nil
		}
		ms, err := s.cfg.Engine.Oldest(ctx, streamName, int(min(over, trimChunk)))
		if err != nil || len(ms) == 0 {
			return err
		}
		now := s.cfg.Clock()
		var finished []uint64
		for _, m := range ms {
			r, c, ok := s.parse(m)
			if newer, cached := s.Cached(c.UUID); ok && cached {
				r = newer
			}
			if !ok || !r.Open(now) {
				finished = append(finished, m.Seq)
				continue
			}
			rewritten++
			if _, err := s.UpdateNow(ctx, c, func(*Record) bool { return true }); err != nil {
				return err
			}
		}
		if err := s.cfg.Engine.Delete(ctx, streamName, finished); err != nil {
			return err
		}
	}
	return nil
}
