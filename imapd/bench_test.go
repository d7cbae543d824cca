package imapd

import (
	"io"
	"testing"
	"time"
)

// BenchmarkFetch asks for lists of 10,000 messages over loopback; ns per message.
func BenchmarkFetch(b *testing.B) {
	bn := newBench(b, nil)
	const messages = 10_000
	bn.deliverMany("alice", messages)
	for _, items := range []string{"(UID FLAGS)", "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)",
		"(UID BODY.PEEK[HEADER.FIELDS (From Subject)])", "(UID BODY.PEEK[])"} {
		b.Run(items, func(b *testing.B) {
			c := bn.login("alice")
			c.ok("a SELECT INBOX")
			for b.Loop() {
				c.send("b FETCH 1:* " + items + "\r\n")
				for {
					line, err := c.r.ReadSlice('\n')
					if err != nil && err != io.EOF {
						b.Fatal(err)
					}
					if len(line) > 2 && string(line[:2]) == "b " {
						break
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/msg")
		})
	}
}

// BenchmarkSearch searches 10,000 small messages; ns per message.
func BenchmarkSearch(b *testing.B) {
	bn := newBench(b, nil)
	const messages = 10_000
	bn.deliverMany("alice", messages)
	for _, keys := range []string{"2:*", "UNSEEN", "FROM nobody", "BODY absent"} {
		b.Run(keys, func(b *testing.B) {
			c := bn.login("alice")
			c.ok("a SELECT INBOX")
			c.conn.SetDeadline(time.Now().Add(10 * time.Minute))
			for b.Loop() {
				c.ok("b SEARCH RETURN (COUNT) " + keys)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/msg")
		})
	}
}
