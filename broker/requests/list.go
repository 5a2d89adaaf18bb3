package requests

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	listAtOnce = 50_000          // records that are cheap enough to go through for one page: about 0.1 s
	span       = 6 * time.Hour   // records created in one share a token of their subjects
	clockSlack = 24 * time.Hour  // how far ahead of the clock records may be: it may have been set back
	oldest     = 3 * keepRecords // no record is older: two deadlines of 30 days, then kept for 30
)

// subjectOf is the subject of a request's record; the device "*" and the zero mailbox match any.
func subjectOf(c device.Claims, dev device.ID) string {
	mailbox := "*"
	if c.Mailbox != (device.Mailbox{}) {
		mailbox = stream.Token(c.Mailbox[:])
	}
	return "r." + spanToken(c.UUID.Time()) + "." + mailbox + "." + stream.Token(c.UUID[:]) + "." + string(dev)
}

func spanToken(t time.Time) string { return strconv.FormatInt(t.Unix()/int64(span/time.Second), 10) }

func uuidToken(subject string) string {
	parts := strings.Split(subject, ".")
	if len(parts) != 5 {
		return ""
	}
	return parts[3]
}

// List returns records newest first: those of one mailbox or, where it is zero, of all, and of one device or all. cursor
// is "" for the first page; next is "" on the last. A record that cannot be read is left out.
func (s *Store) List(ctx context.Context, m device.Mailbox, dev device.ID, limit int, cursor string) (records []Record, next string, err error) {
	subjects, err := s.subjects(ctx, m, dev, limit, cursor)
	if err != nil || len(subjects) == 0 {
		return nil, "", err
	}
	slices.SortFunc(subjects, func(a, b string) int { return cmp.Compare(uuidToken(b), uuidToken(a)) })
	if len(subjects) > limit {
		subjects = subjects[:limit]
		next = uuidToken(subjects[limit-1])
	}
	records, err = s.read(ctx, subjects)
	return records, next, err
}

// subjects finds the subjects of one page and perhaps more: the newest before the cursor are among them.
func (s *Store) subjects(ctx context.Context, m device.Mailbox, dev device.ID, limit int, cursor string) (found []string, err error) {
	mailbox, devices := "*", "*"
	if m != (device.Mailbox{}) {
		mailbox = stream.Token(m[:])
	}
	if dev != "" {
		devices = string(dev)
	}
	take := func(subject string) {
		if u := uuidToken(subject); u != "" && (cursor == "" || u < cursor) {
			found = append(found, subject)
		}
	}
	chosen := m != (device.Mailbox{}) || dev != ""
	if !chosen {
		n, err := s.cfg.Engine.Count(ctx, streamName)
		if err != nil {
			return nil, err
		}
		chosen = n <= s.listAtOnce
	}
	if chosen {
		err := s.cfg.Engine.Subjects(ctx, streamName, "r.*."+mailbox+".*."+devices, take)
		return found, err
	}
	newest := s.cfg.Clock().Add(clockSlack)
	if at, ok := cursorTime(cursor); ok && at.Before(newest) {
		newest = at
	}
	end := s.cfg.Clock().Add(-oldest)
	for at := newest.Truncate(span); len(found) <= limit && at.Add(span).After(end); at = at.Add(-span) {
		if err := s.cfg.Engine.Subjects(ctx, streamName, "r."+spanToken(at)+".>", take); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func cursorTime(cursor string) (time.Time, bool) {
	b, err := stream.ParseToken(cursor)
	if err != nil || len(b) != len(device.UUID{}) {
		return time.Time{}, false
	}
	return device.UUID(b).Time(), true
}

// read returns the records of exact subjects, at most 1,000, newest first, with what is newer in memory.
func (s *Store) read(ctx context.Context, subjects []string) ([]Record, error) {
	type found struct {
		Record
		uuid string
	}
	var all []found
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
			all = append(all, found{r, c.UUID.String()})
		}
		if !more || len(ms) == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(b.uuid, a.uuid) })
	records := make([]Record, len(all))
	for i, f := range all {
		records[i] = f.Record
	}
	return records, nil
}
