package imapd

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// BenchmarkFetchManySections asks for 200 different choices of fields of messages whose
// headers have 1 MiB, from some sessions at once: processor time of the process per
// message, and what another session waits for NOOP and STORE meanwhile.
func BenchmarkFetchManySections(b *testing.B) {
	bn := newBench(b, nil)
	const messages = 4
	for i := range messages {
		bn.deliver("alice", strings.Repeat(fmt.Sprintf("a%d:\r\nb:\r\n", i), headerBytesMax/9)+"\r\n")
	}
	bn.deliver("bob", "Subject: other\r\n\r\n")
	var items strings.Builder
	for i := range maxSections / 2 {
		fmt.Fprintf(&items, " BODY.PEEK[HEADER.FIELDS (x%d)] BODY.PEEK[HEADER.FIELDS.NOT (x%d)]<0.1>", i, i)
	}
	command := "b FETCH 1:* (UID" + items.String() + ")"
	for _, sessions := range []int{1, 4} {
		b.Run(strconv.Itoa(sessions), func(b *testing.B) {
			besideSessions(b, bn, sessions, command)
			b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N*messages), "ms/msg")
		})
	}
}

// besideSessions has sessions of alice's send a command again and again, and measures
// besideOthers.
func besideSessions(b *testing.B, bn *bench, sessions int, command string) {
	ended, stop := make(chan struct{}, 1000), make(chan struct{})
	var busy sync.WaitGroup
	for range sessions {
		c := bn.login("alice")
		c.ok("s SELECT INBOX")
		c.conn.SetDeadline(time.Now().Add(time.Hour))
		busy.Go(func() {
			for {
				c.ok(command)
				select {
				case ended <- struct{}{}:
				case <-stop:
					return
				}
			}
		})
	}
	besideOthers(b, bn, ended)
	close(stop)
	busy.Wait()
}

// besideOthers sends NOOP and STORE as bob until b.N commands of others have ended, and
// reports what each took, and the processor time of the process.
func besideOthers(b *testing.B, bn *bench, ended <-chan struct{}) {
	c := bn.login("bob")
	c.ok("s SELECT INBOX")
	c.conn.SetDeadline(time.Now().Add(time.Hour))
	took := map[string][]time.Duration{}
	timed := func(name, command string) {
		began := time.Now()
		c.ok(command)
		took[name] = append(took[name], time.Since(began))
	}
	cpu := cpuTime()
	for n := 0; n < b.N; {
		timed("NOOP", "n NOOP")
		timed("STORE", `t STORE 1 +FLAGS (\Seen)`)
		timed("STORE", `t STORE 1 -FLAGS (\Seen)`)
		select {
		case <-ended:
			n++
		case <-time.After(time.Millisecond):
		}
	}
	b.ReportMetric((cpuTime()-cpu).Seconds()*1e3/float64(b.N), "cpu-ms/op")
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1e3, name+"-p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1e3, name+"-p99-ms")
	}
}

// cpuTime is what the process has used of processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOpenLargeBodies asks for one byte of messages of 20 MiB, from some sessions at
// once: each is proved whole. What another session waits for NOOP and STORE meanwhile.
func BenchmarkOpenLargeBodies(b *testing.B) {
	bn := newBench(b, nil)
	const messages = 4
	for range messages {
		bn.deliver("alice", "Subject: large\r\n\r\n"+strings.Repeat("0123456789abcdef\r\n", 20<<20/18))
	}
	bn.deliver("bob", "Subject: other\r\n\r\n")
	for _, sessions := range []int{1, 16} {
		b.Run(strconv.Itoa(sessions), func(b *testing.B) {
			besideSessions(b, bn, sessions, "b FETCH 1:* BODY.PEEK[]<0.1>")
		})
	}
}
