package figures

import (
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct{ got, want string }{
		{Count(0, "message"), "0 messages"}, {Count(1, "message"), "1 message"}, {Count(int64(999), "message"), "999 messages"},
		{Count(uint64(1000), "message"), "1,000 messages"}, {Count(1234567, "message"), "1,234,567 messages"},
		{Age(0), "0 s"}, {Age(1900 * time.Millisecond), "1 s"}, {Age(2*time.Minute - 1), "119 s"}, {Age(10 * time.Minute), "10 min"},
		{Age(2 * time.Hour), "2 h"}, {Age(2*day - 1), "47 h"}, {Age(3 * day), "3 days"},
		{FineAge(1900 * time.Millisecond), "1.9 s"}, {FineAge(17 * time.Second), "17 s"}, {FineAge(3 * time.Hour), "3 h"},
		{Size(0), "0 B"}, {Size(1023), "1023 B"}, {Size(1536), "1.5 KiB"}, {Size(int64(5 << 30)), "5.0 GiB"}, {Size(uint64(1<<63 - 1)), "8.0 EiB"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
