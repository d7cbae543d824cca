package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"mailnode/failover"
	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// A generation is the time between two recoveries of a lost majority (recover.go).
// Nodes of different ones do not talk, so that nothing which the lost majority decides
// reaches a survivor. A node of an earlier one hears of the later one when it dials a
// survivor. Either the survivors count on it, and it takes their generation; or it was
// left behind: then it serves nothing any more, whatever it has a quorum for, and its
// copies come home when its machine joins again.

// peerGeneration is what nodes call the generation of a state: the first is 1.
func peerGeneration(st *cluster.State) slot.Generation { return st.Generation + 1 }

// leftBehindName is the file in the data folder that says that this node was left
// behind: it serves nothing after a restart either, when it may hear nobody.
const leftBehindName = "left-behind.json"

// outOfDate is the highest generation that this node has heard of and not taken.
type outOfDate struct {
	mu   sync.Mutex // guards all below
	dir  string
	word behindWord
}

// behindWord is the content of the file.
type behindWord struct {
	Generation slot.Generation `json:"generation"`
	By         slot.NodeName   `json:"by"` // who said so
}

func (o *outOfDate) load(dir string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dir = dir
	b, err := os.ReadFile(filepath.Join(dir, leftBehindName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o.word)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", leftBehindName, err)
	}
	return nil
}

// note remembers a generation; news: a higher one than before.
func (o *outOfDate) note(w behindWord) (news bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w.Generation <= o.word.Generation {
		return false, nil
	}
	o.word = w // it counts now, whatever the disk says
	b, err := json.Marshal(w)
	if err == nil {
		err = disk.ReplaceFile(filepath.Join(o.dir, leftBehindName), b)
	}
	return true, err
}

func (o *outOfDate) heard() behindWord {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.word
}

// isLeftBehind reports whether the cluster was recovered without this node.
func (n *Node) isLeftBehind() bool { return n.past.heard().Generation > n.id.Generation() }

func (n *Node) leftBehindText() string {
	w := n.past.heard()
	return fmt.Sprintf("the cluster was recovered without this node: %s has generation %d, this node %d; what its copies have alone is kept, and comes home when its machine takes its place again: %s", w.By, w.Generation, n.id.Generation(), bringBack(n.cfg.Node.Name))
}

// tellLeftBehind keeps the condition about it.
func (n *Node) tellLeftBehind() {
	w := n.past.heard()
	n.conditions.Tell(n.isLeftBehind(), monitor.GenerationBehind, "", monitor.Told{
		Detail: fmt.Sprintf("%s has generation %d, this node %d; to bring it back: %s", w.By, w.Generation, n.id.Generation(), bringBack(n.cfg.Node.Name)),
		Next:   fmt.Sprintf("mailnode cluster join --replace %s", n.cfg.Node.Name)})
}

// leftBehindNote is said of another node beside its silence.
func (n *Node) leftBehindNote(st *cluster.State, name slot.NodeName) string {
	if st.Belongs(name) {
		return ""
	}
	return fmt.Sprintf("; left behind by the recovery to generation %d, which refuses it until its machine joins again", peerGeneration(st))
}

// generationWord is what a survivor says to a node of an earlier generation.
type generationWord struct {
	// After is the log with which the cluster was recovered: a survivor that was not heard
	// then takes the generation, unless its own has more. What such a log has applied
	// can't be undone. nil: the node was left behind.
	After *cluster.LogEnd `json:"after,omitempty"`
}

// tellBehind implements peer.Options.TellBehind. While the recovery is not done here it
// says nothing: it may never be.
func (n *Node) tellBehind(name slot.NodeName, key string) string {
	<-n.raftOpened
	st := n.State()
	if n.id.Generation() != peerGeneration(st) {
		return ""
	}
	var w generationWord
	if m, _ := st.Member(name); st.Belongs(name) && (m.Key == "" || m.Key == key) {
		w.After = &st.RecoveredAt
	}
	b, err := json.Marshal(w)
	n.logErr("tell a node of an earlier generation", err)
	return string(b)
}

// hearGeneration implements peer.Options.HigherGeneration. Only the answer to a call
// of this node says what becomes of it; whoever was called calls back within a second
// (reports).
func (n *Node) hearGeneration(e peer.GenerationError) {
	if e.Word == "" {
		return
	}
	var w generationWord
	if err := json.Unmarshal([]byte(e.Word), &w); err != nil {
		n.log.Error("read the word of a later generation", "from", e.Peer, "err", err)
		return
	}
	<-n.raftOpened
	own := n.raft.LogEnd()
	switch {
	case w.After == nil:
		n.fallBehind(behindWord{Generation: e.Theirs, By: e.Peer})
	case own.Compare(*w.After) > 0:
		n.log.Error("this node knows more than the cluster was recovered with", "own", own, "theirs", *w.After)
		n.fallBehind(behindWord{Generation: e.Theirs, By: e.Peer})
	default:
		n.log.Warn("the cluster was recovered with this node: it takes the generation", "generation", e.Theirs, "from", e.Peer)
		n.logErr("take the generation", n.id.SetGeneration(e.Theirs))
		n.wakeCopies()
	}
}

// hearLeftBehind takes another node's word for it, which may be the only one that has
// heard of the later generation.
func (n *Node) hearLeftBehind(r failover.Report) {
	if r.LeftBehind > n.id.Generation() {
		n.fallBehind(behindWord{Generation: r.LeftBehind, By: r.Node})
	}
}

// fallBehind ends all that this node does for its slots.
func (n *Node) fallBehind(w behindWord) {
	news, err := n.past.note(w)
	n.logErr("remember that this node was left behind", err)
	if news {
		n.log.Error("this node serves nothing any more", "why", n.leftBehindText())
		n.endMasters()
		n.wakeCopies()
	}
}

// wakeCopies has all copies look at what they are to do.
func (n *Node) wakeCopies() {
	for _, k := range n.copies.all() {
		k.wake()
	}
}

// raftReport is this node's part of what a recovery has to know.
func (n *Node) raftReport() failover.RaftReport {
	r := failover.RaftReport{LogEnd: n.raft.LogEnd(), Applied: n.State().Index, Recovers: n.recovering.Load()}
	if n.isLeftBehind() {
		r.LeftBehind = n.past.heard().Generation
	}
	return r
}
