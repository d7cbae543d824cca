package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mailnode/node/diary"
	"mailnode/storage/slot"
)

// Incidents knows what was.
type Incidents interface {
	// History returns the changes of ownership that Raft remembers, oldest first.
	History(ctx context.Context) (History, error)
	// Note writes a person's words into the diaries of all nodes that can be reached.
	Note(ctx context.Context, r NoteRequest) (Noted, error)
	// Report asks all nodes what they have noted.
	Report(ctx context.Context, since time.Duration) (diary.Report, error)
	// Ordered notes an order that was given to this node. It waits for nothing.
	Ordered(by, text string)
}

// History is the answer of `failover history`.
type History struct {
	Changes []OwnerChange `json:"changes"`
	Recorded
}

// OwnerChange is one entry of Raft's history.
type OwnerChange struct {
	Kind         string        `json:"kind"`           // assigned, confirmed; resolved: an open loss; generation, features: of the cluster
	Slot         *slot.ID      `json:"slot,omitempty"` // null when it is about the cluster
	Epoch        slot.Epoch    `json:"epoch,omitempty"`
	From         slot.NodeName `json:"from,omitempty"`
	To           slot.NodeName `json:"to,omitempty"`
	Proposal     string        `json:"proposal,omitempty"`
	By           string        `json:"by,omitempty"`
	Why          string        `json:"why,omitempty"`
	When         string        `json:"when,omitempty"` // wall clock, shown only
	Unclean      bool          `json:"unclean,omitempty"`
	AcceptedLoss bool          `json:"accepted_loss,omitempty"`
}

// NoteRequest is what a person wants to be remembered. By is filled in by the server.
type NoteRequest struct {
	Text string `json:"text"`
	By   string `json:"-"`
}

// Noted says where a note was written.
type Noted struct {
	Nodes   []slot.NodeName          `json:"nodes"`
	Missing map[slot.NodeName]string `json:"missing,omitempty"` // and why not
	Again   bool                     `json:"again,omitempty"`   // the same words of the same person were noted just before
}

// sinceMax is the longest time that is asked about.
const sinceMax = 10 * 365 * 24 * time.Hour

func (s *Server) incidentRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/failover/history", read(s, func(ctx context.Context, _ *http.Request) (History, error) {
		h, err := s.backend.Incidents.History(ctx)
		h.Changes = orEmpty(h.Changes)
		return h, err
	}))
	mux.Handle("GET /v1/incident", read(s, func(ctx context.Context, r *http.Request) (diary.Report, error) {
		sec, err := strconv.ParseInt(r.URL.Query().Get("since_s"), 10, 64)
		if err != nil || sec < 1 || sec > int64(sinceMax/time.Second) {
			return diary.Report{}, &Error{Text: "incident report: since: want a time such as 2h", Exit: ExitUsage}
		}
		return s.backend.Incidents.Report(ctx, time.Duration(sec)*time.Second)
	}))
	mux.Handle("POST /v1/incident/notes", change(s, notesOrder, requestTimeout, func(ctx context.Context, q NoteRequest, by string) (Noted, error) {
		q.By, q.Text = by, strings.TrimSpace(q.Text)
		switch {
		case q.Text == "":
			return Noted{}, &Error{Text: "note: there are no words", Exit: ExitUsage}
		case len(q.Text) > diary.TextMax:
			return Noted{}, &Error{Text: fmt.Sprintf("note: it has %d bytes, at most %d are kept", len(q.Text), diary.TextMax), Exit: ExitUsage}
		}
		return s.backend.Incidents.Note(ctx, q)
	}))
}

// notesOrder is the one order that says itself what it is.
const notesOrder = "note"

// becomes is an answer that says in one line what became of an order.
type becomes interface{ became() string }

func (o Outcome) became() string {
	first, _, _ := strings.Cut(o.Text, "\n")
	return first
}

func (p Proposed) became() string { return cmp.Or(p.ID, "nothing to do") }

// ordered notes an order and what became of it, but for those about single users:
// they are no happenings of the cluster, and a program may give thousands.
func (s *Server) ordered(path, what, by string, q, answer any, err error) {
	if s.backend.Incidents == nil || what == notesOrder || strings.HasPrefix(path, "/v1/users") {
		return
	}
	text := what
	if b, jerr := json.Marshal(q); jerr == nil && string(b) != "{}" {
		text += " " + string(b)
	}
	switch a, says := answer.(becomes); {
	case err != nil:
		text += ": " + err.Error()
	case says:
		text += ": " + a.became()
	default:
		text += ": done"
	}
	s.backend.Incidents.Ordered(by, text)
}

// History lists the changes of ownership that Raft remembers.
func (c *Client) History(ctx context.Context) (h History, err error) {
	return h, c.get(ctx, "/v1/failover/history", &h)
}

// Incident reports what was in the last seconds.
func (c *Client) Incident(ctx context.Context, sinceS int64) (r diary.Report, err error) {
	return r, c.get(ctx, "/v1/incident?since_s="+url.QueryEscape(strconv.FormatInt(sinceS, 10)), &r)
}

// Note has a person's words remembered.
func (c *Client) Note(ctx context.Context, r NoteRequest) (n Noted, err error) {
	return n, c.post(ctx, "/v1/incident/notes", r, &n)
}
