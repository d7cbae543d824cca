package ack

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailnode/storage/slot"
)

var rewrite = flag.Bool("rewrite", false, "write the scenarios again")

// TestLaw01Scenarios plays the stories in testdata. A line is an event; the lines
// behind "->" are what the master does then, and how far it acknowledges. See
// story.play for the words.
func TestLaw01Scenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.story")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".story"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := tell(t, string(b))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(b) {
				t.Errorf("%s: it went otherwise:\n%s", f, got)
			}
		})
	}
}

// tell plays a story and writes it again.
func tell(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	st := &story{t: t}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		words := strings.Fields(line)
		switch {
		case len(words) > 0 && words[0] == "->":
		case len(words) == 0 || words[0] == "#":
			fmt.Fprintln(&out, line)
		default:
			fmt.Fprintln(&out, line)
			for _, l := range st.play(words) {
				fmt.Fprintln(&out, "    -> "+l)
			}
		}
	}
	return out.String()
}

type story struct {
	t       *testing.T
	s       State
	now     time.Duration
	head    slot.Position
	version uint64
	last    Record // proposed last
	listed  []slot.NodeName
	leaving []Leaver
	drop    slot.NodeName // asked for last
}

// play executes one line:
//
//	start [again] [ordered] [local] [alone N] (protected NODES [begins N] | unprotected N) head N
//	change N              a change is durable at N
//	connect NODE N, refill NODE, ack NODE N [unviable], gone NODE
//	works NODE DURATION   it tells that it reads and writes, and ends nothing
//	record done|refused|unknown|unsent     how the last proposal ended
//	list NODES [leaving NODES] [anyway NODES]   Raft lists other replicas; "-": none
//	dropped done|refused                   how the last drop ended
//	raft (protected NODES | unprotected N) Raft has another record, later than all
//	marked | unmarkable
//	over
//	wait DURATION         ticks of 100 ms
func (st *story) play(w []string) []string {
	switch w[0] {
	case "start":
		return st.start(w[1:])
	case "change":
		st.head = max(st.head, pos(w[1]))
		return st.step(Asked{st.now, pos(w[1])})
	case "connect":
		return st.step(Connected{st.now, slot.NodeName(w[1]), pos(w[2])})
	case "refill":
		return st.step(Refilled{st.now, slot.NodeName(w[1])})
	case "ack":
		n := slot.NodeName(w[1])
		return st.step(Acked{At: st.now, Node: n, Conn: st.s.Replica(n).Conn, Position: pos(w[2]), Viable: !slices.Contains(w, "unviable")})
	case "works":
		return st.works(slot.NodeName(w[1]), w[2])
	case "gone":
		return st.step(Disconnected{st.now, slot.NodeName(w[1]), st.s.Replica(slot.NodeName(w[1])).Conn})
	case "record":
		return st.ended(w[1])
	case "list":
		return st.list(w[1:])
	case "dropped":
		return st.dropped(w[1])
	case "raft":
		st.version++
		r := record(w[1:])
		r.Version = st.version
		return st.step(Recorded{st.now, r, st.listed, st.leaving})
	case "marked":
		since, _ := st.s.Alone()
		return st.step(Marked{At: st.now, Since: since})
	case "unmarkable":
		return st.step(Marked{At: st.now, Failed: true})
	case "over":
		return st.step(EpochOver{st.now})
	case "wait":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			st.t.Fatal(err)
		}
		var out []string
		for end := st.now + d; st.now < end; {
			st.now += 100 * time.Millisecond
			for _, l := range st.step(Tick{st.now, st.head}) {
				out = append(out, fmt.Sprintf("%s (at %s)", l, st.now))
			}
		}
		return out
	}
	st.t.Fatalf("no such event: %v", w)
	return nil
}

// list has Raft list other replicas.
func (st *story) list(w []string) []string {
	named := func(list string) (out []slot.NodeName) {
		for n := range strings.SplitSeq(list, ",") {
			if n != "-" {
				out = append(out, slot.NodeName(n))
			}
		}
		return out
	}
	st.listed, st.leaving = named(w[0]), nil
	for i := 1; i+1 < len(w); i += 2 {
		for _, n := range named(w[i+1]) {
			st.leaving = append(st.leaving, Leaver{n, w[i] == "anyway"})
		}
	}
	return st.relisted()
}

// relisted tells that Raft has the same record, of a later version, with this list.
func (st *story) relisted() []string {
	st.version++
	r := st.s.Recorded()
	r.Version = st.version
	return st.step(Recorded{st.now, r, st.listed, st.leaving})
}

// dropped ends the last drop.
func (st *story) dropped(how string) []string {
	var out []string
	if how == "done" {
		st.listed = slices.DeleteFunc(st.listed, func(n slot.NodeName) bool { return n == st.drop })
		st.leaving = slices.DeleteFunc(st.leaving, func(l Leaver) bool { return l.Node == st.drop })
		out = st.relisted()
	}
	return append(out, st.step(Dropped{st.now, st.drop})...)
}

// works tells for a while, ten times a second, that a replica's copy works: what
// it holds stays the same.
func (st *story) works(n slot.NodeName, how string) (out []string) {
	d, err := time.ParseDuration(how)
	if err != nil {
		st.t.Fatal(err)
	}
	for end := st.now + d; st.now < end; {
		r := st.s.Replica(n)
		st.step(Acked{At: st.now, Node: n, Conn: r.Conn, Position: r.Acked, Moved: r.Moved + 1, Viable: true})
		st.now += 100 * time.Millisecond
		for _, l := range st.step(Tick{st.now, st.head}) {
			out = append(out, fmt.Sprintf("%s (at %s)", l, st.now))
		}
	}
	return out
}

func (st *story) start(w []string) []string {
	st.now, st.version = st.now+time.Second, st.version+1
	begin := Start{At: st.now, Again: slices.Contains(w, "again"), WithoutRaft: slices.Contains(w, "ordered"), Listed: []slot.NodeName{"n2", "n3"}}
	if i := slices.Index(w, "alone"); i >= 0 {
		begin.Alone, begin.AloneSince = true, pos(w[i+1])
	}
	if i := slices.IndexFunc(w, func(s string) bool { return s == "protected" || s == "unprotected" }); i >= 0 {
		begin.Recorded = record(w[i:])
	}
	begin.Recorded.Version = st.version
	begin.Head = pos(w[slices.Index(w, "head")+1])
	st.head, st.listed = begin.Head, begin.Listed
	var out []Action
	st.s, out = New(Settings{Waits: !slices.Contains(w, "local"), AckTimeout: 2 * time.Second, ProtectAfter: 10 * time.Second}, begin)
	return st.say(out)
}

// ended ends the last proposal. "done" means that it was applied here as well.
func (st *story) ended(how string) []string {
	var out []string
	o := map[string]Outcome{"done": Done, "refused": Refused, "unknown": Unknown, "unsent": NotSent}[how]
	if o == Done {
		st.version++
		r := st.last
		r.Version = st.version
		out = st.step(Recorded{st.now, r, st.listed, st.leaving})
	}
	return append(out, st.step(Proposed{st.now, st.last, o})...)
}

func (st *story) step(e Event) []string {
	before := fmt.Sprintf("%+v", st.s)
	next, acts := Step(st.s, e)
	if now := fmt.Sprintf("%+v", st.s); now != before {
		st.t.Fatalf("%T changed the state that it was given:\n%s\n%s", e, before, now)
	}
	st.s = next
	return st.say(acts)
}

func (st *story) say(acts []Action) []string {
	var out []string
	for _, a := range acts {
		switch a := a.(type) {
		case Release:
			out = append(out, fmt.Sprintf("acknowledge up to %d", a.UpTo))
		case Propose:
			st.last = a.Record
			what := fmt.Sprintf("unprotected since %d", a.Record.Since)
			if a.Record.Protected {
				what = fmt.Sprintf("protected by %s", nodes(a.Record.InSync))
			}
			out = append(out, fmt.Sprintf("propose %s: %s", what, a.Why))
		case Drop:
			st.drop = a.Node
			out = append(out, fmt.Sprintf("drop %s", a.Node))
		case MarkAlone:
			out = append(out, fmt.Sprintf("mark alone since %d", a.Since))
		case ClearAlone:
			out = append(out, "clear the mark")
		case End:
			out = append(out, "end")
		}
	}
	return out
}

func nodes(list []slot.NodeName) string {
	var out []string
	for _, n := range list {
		out = append(out, string(n))
	}
	return strings.Join(out, ",")
}

func record(w []string) Record {
	if w[0] == "unprotected" {
		return Record{Since: pos(w[1])}
	}
	r := Record{Protected: true}
	for n := range strings.SplitSeq(w[1], ",") {
		r.InSync = append(r.InSync, slot.NodeName(n))
	}
	if len(w) > 3 && w[2] == "begins" {
		r.Begins = pos(w[3])
	}
	return r
}

func pos(s string) slot.Position {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return slot.Position(n)
}
