package requests

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"signaldevice/device"
)

// What is listed is what the filter chooses, in order and each once, whatever the pages, and whether records are found
// all together or span by span.
func TestStore_ListFiltered(t *testing.T) {
	now := time.UnixMilli(1_795_000_000_000)
	s := openIn(t, t.TempDir(), func(c *Config) { c.Clock = func() time.Time { return now }; c.Log = slog.New(slog.DiscardHandler) })
	defer s.closeAll()
	var ids []device.RequestID
	for i := range 20 { // one a minute, the newest first
		r, _ := newRecord(t, now.Add(-time.Duration(i)*time.Minute))
		r.Command = []string{"ping", "reboot", "snapshot", "ping"}[i%4]
		create(t, s, r)
		ids = append(ids, r.ID)
	}
	minutes := func(n float64) time.Time { return now.Add(-time.Duration(n * float64(time.Minute))) }
	every := func(from, to, step int) (list []int) {
		for i := from; i <= to; i += step {
			list = append(list, i)
		}
		return list
	}
	tests := map[string]struct {
		filter Filter
		want   []int // minutes ago
	}{
		"all":                         {Filter{}, every(0, 19, 1)},
		"a command":                   {Filter{Command: "reboot"}, every(1, 19, 4)},
		"a command that nobody sent":  {Filter{Command: "rebo"}, nil},
		"since the moment of one":     {Filter{Since: minutes(3)}, every(0, 3, 1)},
		"since just after it":         {Filter{Since: minutes(3).Add(time.Nanosecond)}, every(0, 2, 1)},
		"until the moment of one":     {Filter{Until: minutes(17)}, every(18, 19, 1)},
		"until just after it":         {Filter{Until: minutes(17).Add(time.Nanosecond)}, every(17, 19, 1)},
		"between":                     {Filter{Since: minutes(9), Until: minutes(4)}, every(5, 9, 1)},
		"between, nothing":            {Filter{Since: minutes(9.5), Until: minutes(9.4)}, nil},
		"a command between":           {Filter{Command: "snapshot", Since: minutes(14), Until: minutes(2)}, every(6, 14, 4)},
		"since before everything":     {Filter{Since: time.Unix(0, 0)}, every(0, 19, 1)},
		"until far ahead":             {Filter{Until: now.AddDate(5000, 0, 0)}, every(0, 19, 1)},
		"until before everything":     {Filter{Until: time.Unix(-1, 0)}, nil},
		"what the caller wants":       {Filter{Keep: func(r Record) bool { return r.ID == ids[11] }}, []int{11}},
		"that and a command":          {Filter{Command: "ping", Keep: func(r Record) bool { return r.ID != ids[3] }}, []int{0, 4, 7, 8, 11, 12, 15, 16, 19}},
		"nothing of what was read":    {Filter{Keep: func(Record) bool { return false }}, nil},
		"of a device that sent none":  {Filter{Device: "cam-2", Command: "ping"}, nil},
		"of one client at one device": {Filter{Mailbox: device.MailboxOf("alice"), Device: "cam-1", Command: "reboot"}, every(1, 19, 4)},
	}
	for limits, list := range map[string]listLimits{
		"usual":                {atOnce: 1000, scan: 1000, chunk: 250, patience: time.Minute},
		"span by span":         {atOnce: 3, scan: 1000, chunk: 250, patience: time.Minute},
		"few at a time":        {atOnce: 1000, scan: 5, chunk: 2, patience: time.Minute},
		"few, span by span":    {atOnce: 3, scan: 5, chunk: 2, patience: time.Minute},
		"no time":              {atOnce: 1000, scan: 1000, chunk: 2, patience: -1},
		"no time, by the span": {atOnce: 3, scan: 1000, chunk: 2, patience: -1},
	} {
		s.list = list
		for name, tt := range tests {
			if list.patience < 0 && list.atOnce < 1000 && tt.filter.Since.IsZero() {
				continue // 360 pages each
			}
			for _, limit := range []int{1, 3, 100} {
				if list.atOnce < 1000 && limit != 3 {
					continue // they take long
				}
				t.Run(fmt.Sprintf("%s/%s/by %d", limits, name, limit), func(t *testing.T) {
					var want []device.RequestID
					for _, i := range tt.want {
						want = append(want, ids[i])
					}
					if got := listAll(t, s, tt.filter, limit); !slices.Equal(got, want) {
						t.Errorf("got %d records, want %d, or they are in the wrong order", len(got), len(want))
					}
				})
			}
		}
	}
}

// listAll follows the cursors, each of which must lead on.
func listAll(t *testing.T, s *Store, f Filter, limit int) (got []device.RequestID) {
	t.Helper()
	seen := map[string]bool{}
	for cursor := ""; ; {
		page, next, err := s.List(t.Context(), f, limit, cursor)
		if err != nil || len(page) > limit {
			t.Fatalf("%d records, %v", len(page), err)
		}
		for _, r := range page {
			got = append(got, r.ID)
		}
		if next == "" {
			return got
		}
		if seen[next] {
			t.Fatal("a cursor led back")
		}
		seen[next], cursor = true, next
	}
}

// I7: what one page reads is bounded, however few records are wanted.
func TestStore_ListReadsABoundedNumber(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	defer s.closeAll()
	now := time.Now()
	for i := range 30 {
		r, _ := newRecord(t, now.Add(-time.Duration(i)*time.Second))
		create(t, s, r)
	}
	tests := map[string]struct {
		limits listLimits
		read   int
		more   bool
	}{
		"all that there are":       {listLimits{atOnce: 1000, scan: 30, chunk: 250, patience: time.Minute}, 30, false},
		"one fewer than there are": {listLimits{atOnce: 1000, scan: 29, chunk: 250, patience: time.Minute}, 29, true},
		"what the time allows":     {listLimits{atOnce: 1000, scan: 30, chunk: 4, patience: -1}, 4, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s.list = tt.limits
			read := 0
			page, next, err := s.List(t.Context(), Filter{Keep: func(Record) bool { read++; return false }}, 10, "")
			if err != nil || len(page) != 0 || read != tt.read || (next != "") != tt.more {
				t.Errorf("%d records, of %d read, more: %v, %v; want %d read, more: %v", len(page), read, next != "", err, tt.read, tt.more)
			}
		})
	}
}
