package dispatch_test

import (
	"slices"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestRequest_IsItsClientsOwn(t *testing.T) { // I3
	auditor := caller("auditor")
	auditor.May = func(p string) bool { return p == device.PermReadAll }
	elsewhere := auditor
	elsewhere.Labels = device.Labels{"fleet": "b"}
	tests := map[string]struct {
		caller dispatch.Caller
		id     func(own device.RequestID) device.RequestID
		want   device.Kind
	}{
		"its client":                      {alice, nil, device.OK},
		"another client":                  {bob, nil, device.RequestNotFound},
		"one who may read all":            {auditor, nil, device.OK},
		"one who may, but not this fleet": {elsewhere, nil, device.RequestNotFound},
		"an unknown id":                   {alice, func(device.RequestID) device.RequestID { return someID() }, device.RequestNotFound},
		"no id":                           {alice, func(device.RequestID) device.RequestID { return "x" }, device.RequestNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := inFleet("a")
			id := s.answered(t, alice, `1`)
			if tt.id != nil {
				id = tt.id(id)
			}
			got, err := s.Request(t.Context(), tt.caller, id)
			wantKind(t, err, tt.want)
			if err == nil && (got.ID != id || got.State != device.StateAnswered) {
				t.Errorf("request = %+v", got)
			}
			got2, err := s.poll(alice) // looking takes nothing
			wantReplies(t, got2, err, `1`)
		})
	}
}

func TestRequests_ListsTheCallersOwnOrAll(t *testing.T) {
	limited := admin()
	limited.Labels = device.Labels{"fleet": "a"}
	tests := map[string]struct {
		caller dispatch.Caller
		filter dispatch.RequestFilter
		want   []device.ClientID
		kind   device.Kind
	}{
		"own":                                {caller: alice, want: []device.ClientID{"alice", "alice"}},
		"own, whatever mailbox is asked for": {caller: alice, filter: dispatch.RequestFilter{Mailbox: device.MailboxOf("bob")}, want: []device.ClientID{"alice", "alice"}},
		"own at one device":                  {caller: alice, filter: dispatch.RequestFilter{Device: cam2}, want: []device.ClientID{"alice"}},
		"everyone's":                         {caller: admin(), want: []device.ClientID{"alice", "alice", "bob", "bob"}},
		"everyone's in one fleet":            {caller: limited, want: []device.ClientID{"alice", "bob"}},
		"one client's, for one who may":      {caller: admin(), filter: dispatch.RequestFilter{Client: "bob"}, want: []device.ClientID{"bob", "bob"}},
		"of a client who sent none":          {caller: admin(), filter: dispatch.RequestFilter{Client: "carol"}},
		"one client's, in one fleet":         {caller: limited, filter: dispatch.RequestFilter{Client: "bob"}, want: []device.ClientID{"bob"}},
		"own, by name":                       {caller: alice, filter: dispatch.RequestFilter{Client: "alice"}, want: []device.ClientID{"alice", "alice"}},
		"another's, for one who may not":     {caller: alice, filter: dispatch.RequestFilter{Client: "bob"}, kind: device.Forbidden},
		"until just after since":             {caller: alice, filter: dispatch.RequestFilter{Since: time.Unix(5, 0), Until: time.Unix(5, 1)}, want: []device.ClientID{"alice", "alice"}},
		"until at since":                     {caller: alice, filter: dispatch.RequestFilter{Since: time.Unix(5, 0), Until: time.Unix(5, 0)}, kind: device.Invalid},
		"at what cannot be a device":         {caller: alice, filter: dispatch.RequestFilter{Device: "a.b"}, kind: device.DeviceNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := inFleet("a")
			for _, c := range []dispatch.Caller{alice, bob} {
				s.send(t, c, cam)
				s.send(t, c, cam2)
			}
			items, _, err := s.Requests(t.Context(), tt.caller, tt.filter)
			wantKind(t, err, tt.kind)
			var got []device.ClientID
			for _, r := range items {
				got = append(got, r.Client)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("clients = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCancel_IsForItsClientAlone(t *testing.T) {
	s := newSystem(true, nil)
	held := s.hold(t)
	s.broker.offline[cam] = false
	sent := s.send(t, alice, cam)
	tests := []struct {
		name   string
		caller dispatch.Caller
		id     device.RequestID
		want   device.Kind
	}{
		{"another client", bob, held, device.RequestNotFound},
		{"one who may read all", admin(), held, device.RequestNotFound},
		{"no id", alice, "x", device.RequestNotFound},
		{"one that was delivered", alice, sent, device.AlreadyDelivered},
		{"a held one of its own", alice, held, device.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := s.Cancel(t.Context(), tt.caller, tt.id)
			wantKind(t, err, tt.want)
			if err == nil && req.State != device.StateCancelled {
				t.Errorf("state = %v", req.State)
			}
		})
	}
}
