package main

import "testing"

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{
		"1": 1, "1048576": 1 << 20, "1KiB": 1 << 10, "16MiB": 16 << 20, "8GiB": 8 << 30, "8388607TiB": 8388607 << 40,
		"8388608TiB": 0, "9223372036854775807": 1<<63 - 1, "9223372036854775808": 0,
		"": 0, "0": 0, "-1": 0, "GiB": 0, "1 GiB": 0, "1.5GiB": 0, "1GB": 0, "1gib": 0, "1MiBKiB": 0,
	} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}
