package registry

import (
	"encoding/base64"
	"slices"
	"strings"

	"signaldevice/device"
)

// maxPageBytes bounds the records of one page, so that it fits into one gRPC message.
const maxPageBytes = 3 << 20

// Filter chooses devices. Zero values choose all.
type Filter struct {
	RegistryID string
	Labels     device.Labels        // every pair must be among the device's
	Name       string               // part of the name, whatever the case
	Match      func(*Snapshot) bool // nil: every device
	Limit      int                  // at least 1; a page may hold fewer though there are more
	Cursor     string               // what the page before gave; "": the first page
}

// List returns a page of devices in the order of their names, as memory has them, and a cursor for the next page, which
// is "" on the last one. A device that is renamed meanwhile may be missed or listed twice; no other one is.
// Invalid: the cursor is none of ours.
func (r *Registry) List(f Filter) (page []*Snapshot, next string, err error) {
	all, err := r.after(f.Cursor)
	if err != nil {
		return nil, "", err
	}
	part := strings.ToLower(f.Name)
	size := 0
	for _, s := range all {
		if f.RegistryID != "" && s.RegistryID != f.RegistryID || !s.Labels.Match(f.Labels) ||
			!strings.Contains(strings.ToLower(s.Name), part) || f.Match != nil && !f.Match(s) {
			continue
		}
		if len(page) == f.Limit || len(page) > 0 && size+s.size > maxPageBytes {
			return page, cursorAfter(page[len(page)-1]), nil
		}
		page = append(page, s)
		size += s.size
	}
	return page, "", nil
}

// after returns all devices that come after the cursor.
func (r *Registry) after(cursor string) ([]*Snapshot, error) {
	name, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(name) > maxName {
		return nil, &device.Error{
			Kind: device.Invalid, Message: "the page token is not one of this service",
			Faults: []device.Fault{{Location: "page_token", Message: "is not one of this service"}},
		}
	}
	r.mu.Lock() // byName may sort
	all := r.table.byName()
	r.mu.Unlock()
	if cursor == "" {
		return all, nil
	}
	i, found := slices.BinarySearchFunc(all, string(name), func(s *Snapshot, name string) int { return strings.Compare(s.Name, name) })
	if found {
		i++
	}
	return all[i:], nil
}

func cursorAfter(s *Snapshot) string { return base64.RawURLEncoding.EncodeToString([]byte(s.Name)) }
