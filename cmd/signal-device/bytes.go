package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// byteSize is a number of bytes, written plainly or with a unit, such as 16MiB.
type byteSize int64

// UnmarshalText reads it from the command line.
func (b *byteSize) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for name, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if cut, ok := strings.CutSuffix(number, name); ok {
			number, unit = cut, bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/unit {
		return errors.New("must be a number of bytes, such as 1048576, 16MiB or 8GiB")
	}
	*b = byteSize(n * unit)
	return nil
}
