package httpapi

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestQuery_RefusesWhatBreaksARule(t *testing.T) {
	repeated := func(pair string, n int) string { return strings.TrimSuffix(strings.Repeat(pair+"&", n), "&") }
	for name, tt := range map[string]struct{ target, location string }{
		"a parameter that a list does not have": {"/v1/devices?lable=a:b", "query"},
		"one where there are none":              {"/v1/me?x=1", ""},
		"one at a device":                       {"/v1/devices/cam-1?x=1", ""},
		"one at a request":                      {"/v1/requests/" + string(requestID) + "?x=1", ""},
		"one at the commands":                   {"/v1/commands?x=1", "query"},
		"commands of no device":                 {"/v1/commands?device=", "query.device"},
		"commands of two devices":               {"/v1/commands?device=a&device=b", "query.device"},
		"commands of a long device":             {"/v1/commands?device=" + strings.Repeat("x", 51), "query.device"},
		"a broken escape":                       {"/v1/devices?name=%zz", "query"},
		"a semicolon":                           {"/v1/devices?name=a;online=true", "query"},
		"invalid UTF-8":                         {"/v1/devices?name=%ff", "query.name"},
		"a NUL":                                 {"/v1/devices?name=a%00", "query.name"},
		"a line break":                          {"/v1/devices?label=a:b%0a", "query.label"},
		"limit 0":                               {"/v1/devices?limit=0", "query.limit"},
		"limit 1001":                            {"/v1/devices?limit=1001", "query.limit"},
		"limit -1":                              {"/v1/requests?limit=-1", "query.limit"},
		"limit +1":                              {"/v1/requests?limit=%2B1", "query.limit"},
		"limit 1.5":                             {"/v1/requests?limit=1.5", "query.limit"},
		"limit empty":                           {"/v1/requests?limit=", "query.limit"},
		"limit far too large":                   {"/v1/requests?limit=99999999999999999999", "query.limit"},
		"limit twice":                           {"/v1/requests?limit=1&limit=1", "query.limit"},
		"a long cursor":                         {"/v1/requests?cursor=" + strings.Repeat("x", 1025), "query.cursor"},
		"a long name":                           {"/v1/devices?name=" + strings.Repeat("x", 51), "query.name"},
		"online, what else":                     {"/v1/devices?online=yes", "query.online"},
		"a label without value":                 {"/v1/devices?label=fleet", "query.label"},
		"a label without key":                   {"/v1/devices?label=:north", "query.label"},
		"a label twice":                         {"/v1/devices?label=a:b&label=a:c", "query.label"},
		"65 labels":                             {"/v1/devices?" + manyLabels(65), "query.label"},
		"wait 61":                               {"/v1/devices/cam-1/replies?wait=61", "query.wait"},
		"wait -1":                               {"/v1/devices/cam-1/replies?wait=-1", "query.wait"},
		"wait 1s":                               {"/v1/devices/cam-1/replies?wait=1s", "query.wait"},
		"101 request ids":                       {"/v1/devices/cam-1/replies?" + repeated("request_id=x", 101), "query.request_id"},
		"a state that there is not":             {"/v1/requests?state=lost", "query.state"},
		"a state only for readers of replies":   {"/v1/requests?state=already_read", "query.state"},
		"a state twice":                         {"/v1/requests?state=held&state=held", "query.state"},
		"an empty state":                        {"/v1/requests?state=", "query.state"},
		"a command of 65 bytes":                 {"/v1/requests?command=" + strings.Repeat("x", 65), "query.command"},
		"a client of 257 bytes":                 {"/v1/requests?client=" + strings.Repeat("x", 257), "query.client"},
		"an empty client":                       {"/v1/requests?client=", "query.client"},
		"a day":                                 {"/v1/requests?since=2026-11-24", "query.since"},
		"a time without a zone":                 {"/v1/requests?since=2026-11-24T09:30:00", "query.since"},
		"a duration":                            {"/v1/requests?since=2h", "query.since"},
		"a time before 1970":                    {"/v1/requests?until=1969-12-31T23:59:59Z", "query.until"},
		"two times":                             {"/v1/requests?until=2026-11-24T09:30:00Z&until=2026-11-24T09:30:00Z", "query.until"},
		"an empty request id":                   {"/v1/devices/cam-1/replies?request_id=", "query.request_id"},
		"a long request id":                     {"/v1/devices/cam-1/replies?request_id=" + strings.Repeat("x", 121), "query.request_id"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			p := h.fails(call("GET", tt.target, ""), 422, device.Invalid)
			if tt.location == "" {
				return
			}
			if len(p.Errors) != 1 || p.Errors[0].Location != tt.location {
				t.Errorf("faults %v, want one at %s", p.Errors, tt.location)
			}
		})
	}
}

func manyLabels(n int) string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("label=k%d:v", i))
	}
	return strings.Join(pairs, "&")
}

func TestQuery_NamesEveryFault(t *testing.T) {
	h := newHarness(t)
	p := h.fails(call("GET", "/v1/devices?limit=0&online=perhaps&canary=1&label=x", ""), 422, device.Invalid)
	if len(p.Errors) != 4 {
		t.Errorf("faults %v, want 4", p.Errors)
	}
	if strings.Contains(fmt.Sprint(p), "canary") {
		t.Error("the query is echoed")
	}
}

func TestQuery_Devices(t *testing.T) {
	for target, want := range map[string]dispatch.DeviceFilter{
		"":                           {Limit: 100},
		"?limit=1":                   {Limit: 1},
		"?limit=1000&cursor=abc":     {Limit: 1000, Cursor: "abc"},
		"?name=Taxi":                 {Limit: 100, Name: "Taxi"},
		"?online=true":               {Limit: 100, Online: new(true)},
		"?online=false":              {Limit: 100, Online: new(false)},
		"?label=fleet:north":         {Limit: 100, Labels: device.Labels{"fleet": "north"}},
		"?label=fleet%3Dnorth":       {Limit: 100, Labels: device.Labels{"fleet": "north"}},
		"?label=a:b=c&label=d=e:f":   {Limit: 100, Labels: device.Labels{"a": "b=c", "d": "e:f"}},
		"?label=fleet:":              {Limit: 100, Labels: device.Labels{"fleet": ""}},
		"?cursor=" + longCursor():    {Limit: 100, Cursor: longCursor()},
		"?name=%D0%BA%D0%B0%D0%BC":   {Limit: 100, Name: "кам"},
		"?" + manyLabels(64):         {Limit: 100, Labels: labelsOf(64)},
		"?name=" + longCursor()[:50]: {Limit: 100, Name: longCursor()[:50]},
	} {
		h := newHarness(t)
		if res := h.do(call("GET", "/v1/devices"+target, "")); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", target, res.StatusCode, res.body)
			continue
		}
		if got := h.service.input; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: filter %+v, want %+v", target, got, want)
		}
	}
}

func longCursor() string { return strings.Repeat("x", 1024) }

func labelsOf(n int) device.Labels {
	labels := device.Labels{}
	for i := range n {
		labels[fmt.Sprintf("k%d", i)] = "v"
	}
	return labels
}

func TestPrefer_Wait(t *testing.T) {
	for name, tt := range map[string]struct {
		lines   []string
		wait    time.Duration
		applied string
		refused bool
	}{
		"none":                        {nil, 0, "", false},
		"wait":                        {[]string{"wait=10"}, 10 * time.Second, "wait=10", false},
		"the longest":                 {[]string{"wait=60"}, 60 * time.Second, "wait=60", false},
		"zero":                        {[]string{"wait=0"}, 0, "wait=0", false},
		"among others":                {[]string{`respond-async, wait=5, handling="lenient"`}, 5 * time.Second, "wait=5", false},
		"on a second line":            {[]string{"respond-async", "wait=5"}, 5 * time.Second, "wait=5", false},
		"the first one counts":        {[]string{"wait=5, wait=7", "wait=9"}, 5 * time.Second, "wait=5", false},
		"blanks, case and parameters": {[]string{`foo ;x=1,  WAIT = "7" ; y=2`}, 7 * time.Second, "wait=7", false},
		"others only":                 {[]string{"respond-async, waiting=99"}, 0, "", false},
		"too long":                    {[]string{"wait=61"}, 0, "", true},
		"far too long":                {[]string{"wait=99999999999999999999"}, 0, "", true},
		"negative":                    {[]string{"wait=-1"}, 0, "", true},
		"not whole":                   {[]string{"wait=1.5"}, 0, "", true},
		"no value":                    {[]string{"wait"}, 0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			r := call("POST", sendPath, `{"command":"ping"}`, withHeader("Prefer", tt.lines...))
			if tt.refused {
				p := h.fails(r, 422, device.Invalid)
				if len(p.Errors) != 1 || p.Errors[0].Location != "header.Prefer" {
					t.Errorf("faults %v", p.Errors)
				}
				return
			}
			res := h.do(r)
			if got := h.service.input.(dispatch.SendInput).Wait; got != tt.wait {
				t.Errorf("wait %v, want %v", got, tt.wait)
			}
			if got := res.Header.Get("Preference-Applied"); got != tt.applied {
				t.Errorf("Preference-Applied %q, want %q", got, tt.applied)
			}
		})
	}
}

func TestIdempotencyKey(t *testing.T) {
	for name, tt := range map[string]struct {
		values []string
		good   bool
	}{
		"none":                {nil, true},
		"one character":       {[]string{"k"}, true},
		"every visible one":   {[]string{visible()}, true},
		"255 characters":      {[]string{strings.Repeat("k", 255)}, true},
		"256 characters":      {[]string{strings.Repeat("k", 256)}, false},
		"empty":               {[]string{""}, false},
		"a space":             {[]string{"a b"}, false},
		"DEL":                 {[]string{"a\x7f"}, false},
		"a control character": {[]string{"a\x1b[31m"}, false},
		"not ASCII":           {[]string{"ключ"}, false},
		"twice":               {[]string{"a", "a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			r := call("POST", sendPath, `{"command":"ping"}`, withHeader("Idempotency-Key", tt.values...))
			if !tt.good {
				p := h.fails(r, 422, device.Invalid)
				if len(p.Errors) != 1 || p.Errors[0].Location != "header.Idempotency-Key" {
					t.Errorf("faults %v", p.Errors)
				}
				return
			}
			if res := h.do(r); res.StatusCode != http.StatusAccepted {
				t.Fatalf("%d %s", res.StatusCode, res.body)
			}
			if got := h.service.input.(dispatch.SendInput).IdempotencyKey; got != strings.Join(tt.values, "") {
				t.Errorf("key %q", got)
			}
		})
	}
}

func visible() string {
	var b strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}
