package requests

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	span       = 6 * time.Hour       // records created in one share the first token of their subjects
	slice      = 30 * time.Second    // and the second one, in one of these
	clockSlack = 24 * time.Hour      // how far ahead of the clock records may be: it may have been set back
	longestRun = 60 * 24 * time.Hour // of a request: two deadlines of 30 days
)

// listLimits bound the work of one page (I7).
type listLimits struct {
	atOnce   uint64        // matching records whose subjects may be found together
	scan     int           // records that are read where only reading tells which are wanted
	chunk    int           // of those, before the time is looked at again
	patience time.Duration // then a page ends where it is
}

var defaultListLimits = listLimits{
	atOnce:   50_000, // about 0.1 s
	scan:     2000,   // about 0.2 s
	chunk:    250,
	patience: 500 * time.Millisecond,
}

// Filter chooses records. Its zero value chooses all.
type Filter struct {
	Mailbox device.Mailbox // of one client; zero: anyone's
	Device  device.ID
	Command string
	Since   time.Time         // created then or later
	Until   time.Time         // created before
	Keep    func(Record) bool // nil: every record
}

// keeps reports whether a record that was read is wanted.
func (f *Filter) keeps(r Record) bool {
	return (f.Command == "" || r.Command == f.Command) && (f.Keep == nil || f.Keep(r))
}

// scans reports whether only reading a record tells that it is wanted.
func (f *Filter) scans() bool { return f.Command != "" || f.Keep != nil }

// subjectOf is the subject of a request's record; the device "*" and the zero mailbox match any.
func subjectOf(c device.Claims, dev device.ID) string {
	mailbox := "*"
	if c.Mailbox != (device.Mailbox{}) {
		mailbox = stream.Token(c.Mailbox[:])
	}
	at := c.UUID.Time()
	return "r." + timeToken(at, span) + "." + timeToken(at, slice) + "." + mailbox + "." + stream.Token(c.UUID[:]) + "." + string(dev)
}

// pattern matches the subjects of one span and slice, or "*", that the filter chooses as far as they tell.
func (f *Filter) pattern(span, slice string) string {
	mailbox := "*"
	if f.Mailbox != (device.Mailbox{}) {
		mailbox = stream.Token(f.Mailbox[:])
	}
	return "r." + span + "." + slice + "." + mailbox + ".*." + cmp.Or(string(f.Device), "*")
}

func timeToken(t time.Time, unit time.Duration) string {
	return strconv.FormatInt(t.Unix()/int64(unit/time.Second), 10)
}

// uuidToken returns the token of a subject that tells its place in a list; "" where the subject is none of ours.
func uuidToken(subject string) string {
	if strings.Count(subject, ".") != 5 {
		return ""
	}
	before := subject[:strings.LastIndexByte(subject, '.')]
	return before[strings.LastIndexByte(before, '.')+1:]
}

// floor is below the token of every request that was created at a moment or later, and above that of every earlier one.
// It is "" for the zero time.
func floor(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	const last = 1<<48 - 1 // milliseconds in a UUIDv7
	ms := min(max(at.Add(time.Millisecond-1).UnixMilli(), 0), last)
	var u device.UUID
	binary.BigEndian.PutUint64(u[:], uint64(ms)<<16)
	return stream.Token(u[:])
}

// List returns up to limit of the records that the filter chooses, at most 1,000, newest first. cursor is "" for the first
// page; next is "" on the last. The work of one call is bounded, so a page may be short, or empty, and not be the last. A
// record that cannot be read is left out.
func (s *Store) List(ctx context.Context, f Filter, limit int, cursor string) (records []Record, next string, err error) {
	end := time.Now().Add(s.list.patience)
	most := limit
	if f.scans() {
		most = s.list.scan
	}
	subjects, rest, err := s.find(ctx, f, most, cursor, end)
	if err != nil || len(subjects) == 0 {
		return nil, rest, err
	}
	last := uuidToken(subjects[len(subjects)-1])
	behind := func(token string) string {
		if token == last {
			return rest
		}
		return token
	}
	for chunk := range slices.Chunk(subjects, s.list.chunk) {
		found, err := s.read(ctx, chunk)
		if err != nil {
			return nil, "", err
		}
		for _, r := range found {
			if !f.keeps(r.Record) {
				continue
			}
			if records = append(records, r.Record); len(records) == limit {
				return records, behind(r.token), nil
			}
		}
		if time.Now().After(end) {
			return records, behind(uuidToken(chunk[len(chunk)-1])), nil
		}
	}
	return records, rest, nil
}

// find returns the subjects of the newest records before the cursor, as far as subjects tell what the filter chooses: at
// most so many, newest first. rest is the cursor for those behind them, "" where there are none. After end it looks no
// further.
func (s *Store) find(ctx context.Context, f Filter, most int, cursor string, end time.Time) (found []string, rest string, err error) {
	from, before := floor(f.Since), cursor
	if until := floor(f.Until); until != "" && (before == "" || until < before) {
		before = until
	}
	take := func(subject string) {
		if u := uuidToken(subject); u != "" && u >= from && (before == "" || u < before) {
			found = append(found, subject)
		}
	}
	n, err := s.cfg.Engine.Count(ctx, streamName)
	if err == nil && n > s.list.atOnce {
		n, err = s.cfg.Engine.Matching(ctx, streamName, f.pattern("*", "*"))
	}
	switch {
	case err != nil:
	case n > s.list.atOnce:
		rest, err = s.walk(ctx, f, before, take, func() bool { return len(found) > most || time.Now().After(end) })
	default:
		err = s.cfg.Engine.Subjects(ctx, streamName, f.pattern("*", "*"), take)
	}
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(uuidToken(b), uuidToken(a)) })
	if len(found) > most {
		found = found[:most]
		rest = uuidToken(found[most-1])
	}
	return found, rest, nil
}

// walk takes the subjects of one span after another, the newest first, until it is enough; where a span has too many, one
// slice of it after another. rest is the cursor behind the last one, "" when that was the oldest.
func (s *Store) walk(ctx context.Context, f Filter, before string, take func(string), enough func() bool) (rest string, err error) {
	newest := s.cfg.Clock().Add(clockSlack)
	if at, ok := cursorTime(before); ok && at.Before(newest) {
		newest = at
		if before == floor(at) {
			newest = at.Add(-1) // of that moment there is none
		}
	}
	oldest := s.cfg.Clock().Add(-s.cfg.Keep - longestRun)
	if f.Since.After(oldest) {
		oldest = f.Since
	}
	for at := newest.Truncate(span); at.Add(span).After(oldest); at = at.Add(-span) {
		n, err := s.cfg.Engine.Matching(ctx, streamName, f.pattern(timeToken(at, span), "*"))
		switch {
		case err != nil:
			return "", err
		case n > s.list.atOnce:
			end := at.Add(span)
			if newest.Before(end) {
				end = newest.Truncate(slice).Add(slice)
			}
			for part := end.Add(-slice); !part.Before(at); part = part.Add(-slice) {
				if err := s.cfg.Engine.Subjects(ctx, streamName, f.pattern(timeToken(at, span), timeToken(part, slice)), take); err != nil {
					return "", err
				}
				if enough() {
					return floor(part), nil
				}
			}
		case n > 0:
			if err := s.cfg.Engine.Subjects(ctx, streamName, f.pattern(timeToken(at, span), "*"), take); err != nil {
				return "", err
			}
		}
		if enough() {
			return floor(at), nil
		}
	}
	return "", nil
}

func cursorTime(cursor string) (time.Time, bool) {
	b, err := stream.ParseToken(cursor)
	if err != nil || len(b) != len(device.UUID{}) {
		return time.Time{}, false
	}
	return device.UUID(b).Time(), true
}

// listed is a record with the token of its subject that tells its place in a list.
type listed struct {
	Record
	token string
}

// read returns the records of exact subjects, at most 1,000, newest first, with what is newer in memory.
func (s *Store) read(ctx context.Context, subjects []string) (all []listed, err error) {
	for after := uint64(0); ; {
		ms, more, err := s.cfg.Engine.Last(ctx, streamName, subjects, after, len(subjects))
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			after = m.Seq
			r, c, ok := s.parse(m)
			if !ok {
				continue
			}
			if newer, ok := s.Cached(c.UUID); ok {
				r = newer
			}
			all = append(all, listed{r, uuidToken(m.Subject)})
		}
		if !more || len(ms) == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b listed) int { return cmp.Compare(b.token, a.token) })
	return all, nil
}
