package broker

import (
	"strings"
	"testing"
	"time"

	"signaldevice/broker/requests"
)

// Each limit is refused on the far side of its bound, with its name and what would do.
func TestConfig_Limits(t *testing.T) {
	smallest := 4 * requests.StoreBytes(leastRecords)
	if smallest > leastStore {
		t.Fatalf("the fewest records take %d bytes", smallest)
	}
	records := int64(500_000)
	tests := map[string]struct {
		edit func(*Config)
		want string // in the error; "": none
	}{
		"the defaults":                 {func(*Config) {}, ""},
		"one reply":                    {func(c *Config) { c.MaxReplies = 1 }, ""},
		"fewer replies than none":      {func(c *Config) { c.MaxReplies = -1 }, "replies"},
		"a million replies":            {func(c *Config) { c.MaxReplies = 1_000_000 }, ""},
		"a million and one":            {func(c *Config) { c.MaxReplies = 1_000_001 }, "replies"},
		"1 MiB for replies":            {func(c *Config) { c.MaxBytes = 1 << 20 }, ""},
		"a byte less":                  {func(c *Config) { c.MaxBytes = 1<<20 - 1 }, "1048576"},
		"half of the store":            {func(c *Config) { c.MaxBytes = 8 << 30 }, ""},
		"more than half of the store":  {func(c *Config) { c.MaxBytes = 8<<30 + 1 }, "16.1 GiB"},
		"replies for a minute":         {func(c *Config) { c.Retention = time.Minute }, ""},
		"replies for less":             {func(c *Config) { c.Retention = time.Minute - 1 }, "1m0s"},
		"replies for 30 days":          {func(c *Config) { c.Retention = 720 * time.Hour }, ""},
		"replies for longer":           {func(c *Config) { c.Retention = 720*time.Hour + 1 }, "720h"},
		"records for a day":            {func(c *Config) { c.KeepRequests = 24 * time.Hour }, ""},
		"records for less":             {func(c *Config) { c.KeepRequests = 24*time.Hour - 1 }, "24h"},
		"records as long as replies":   {func(c *Config) { c.Retention, c.KeepRequests = 48*time.Hour, 48*time.Hour }, ""},
		"records shorter than replies": {func(c *Config) { c.Retention, c.KeepRequests = 48*time.Hour, 47*time.Hour }, "48h"},
		"records for a year":           {func(c *Config) { c.KeepRequests = 8784 * time.Hour }, ""},
		"records for longer":           {func(c *Config) { c.KeepRequests = 8785 * time.Hour }, "8784h"},
		"1,000 records":                {func(c *Config) { c.MaxRequests = 1000 }, ""},
		"999 records":                  {func(c *Config) { c.MaxRequests = 999 }, "1000"},
		"a million records":            {func(c *Config) { c.MaxRequests = 1_000_000 }, ""},
		"more records":                 {func(c *Config) { c.MaxRequests = 1_000_001 }, "1000000"},
		"fewer connections than none":  {func(c *Config) { c.MaxConnections = -1 }, "connections"},
		"a rate below none":            {func(c *Config) { c.ConnectRate = -1 }, "connect in a second"},
		"a rate that no machine has":   {func(c *Config) { c.ConnectRate = 100_001 }, "connect in a second"},
		"the smallest store":           {func(c *Config) { c.MaxStore, c.MaxRequests = 1<<30, 1000 }, ""},
		"a smaller one":                {func(c *Config) { c.MaxStore, c.MaxRequests = 1<<30-1, 1000 }, "the smallest that works is 1 GiB"},
		"the smallest for the records": {func(c *Config) { c.MaxStore = 4 * requests.StoreBytes(records) }, ""},
		"a byte less for the records":  {func(c *Config) { c.MaxStore = 4*requests.StoreBytes(records) - 1 }, "500000 request records"},
		"no store at all":              {func(c *Config) { c.MaxStore = -1 }, "the smallest that works"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var c Config
			tt.edit(&c)
			err := c.Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want one with %q", err, tt.want)
			}
		})
	}
}

// The smallest store works, also for a broker whose store was larger; one that is too small is refused before anything
// is made.
func TestBroker_SmallStore(t *testing.T) {
	cfg := Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"}
	for _, size := range []struct{ store, records int64 }{
		{0, 0}, {leastStore, 1000}, {4 * requests.StoreBytes(200_000), 200_000}, {leastStore, 1000}, {0, 0},
	} {
		cfg.MaxStore, cfg.MaxRequests = size.store, size.records
		b, err := Start(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%d bytes: %v", size.store, err)
		}
		if err := b.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cfg.MaxStore, cfg.MaxRequests = leastStore-1, 1000
	if b, err := Start(t.Context(), cfg); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("too small: %v", err)
		if err == nil {
			_ = b.Stop(t.Context())
		}
	}
}

// F17: however few files a process may have open, devices leave some for the store.
func TestConfig_ConnectionsLeaveFilesForTheStore(t *testing.T) {
	for _, tt := range []struct{ configured, files, want int }{
		{20_000, 0, 20_000}, // not known
		{20_000, 1 << 20, 20_000},
		{20_000, 26_667, 20_000},
		{20_000, 26_664, 19_998},
		{20_000, 1024, 768},
		{20_000, 1000, 744},
		{500, 1024, 500},
		{20_000, 100, 1},
	} {
		if got := (Config{MaxConnections: tt.configured}).connections(tt.files); got != tt.want {
			t.Errorf("%d configured with %d files: %d, want %d", tt.configured, tt.files, got, tt.want)
		}
	}
	if n := openFiles(); n < 0 {
		t.Errorf("%d files", n)
	}
}
