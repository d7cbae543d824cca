package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"mailnode/storage/slot"
)

// Rescuing knows what copies have set aside: whole states that their master's
// history went on without. It asks all nodes.
type Rescuing interface {
	// Asides lists the states on all nodes.
	Asides(ctx context.Context) (Asides, error)
	// ShowAside lists what those states have alone that a slot or a name means, at
	// most so many messages of each. They are read now.
	ShowAside(ctx context.Context, what string, messagesMax int) (Asides, error)
	// DismissAside notes that a person has looked. It deletes nothing.
	DismissAside(ctx context.Context, r DismissAside) (Asides, error)
}

// Asides is the answer of `rescue list` and `rescue show`. Unknown says in words
// which nodes or copies could not be asked: they may have more.
type Asides struct {
	States  []Aside  `json:"states"`
	Unknown []string `json:"unknown,omitempty"`
}

// Aside is a state that a copy set aside. What is not known is null.
type Aside struct {
	Node  slot.NodeName `json:"node"`
	Slot  slot.ID       `json:"slot"`
	Name  string        `json:"name"`
	Since string        `json:"since,omitempty"` // wall clock, shown only
	Was   string        `json:"was,omitempty"`   // what the copy was: master, replica; "" not known
	// Acknowledged says that clients may have been told that it is kept.
	Acknowledged bool           `json:"may_be_acknowledged"`
	Head         slot.Position  `json:"head"`             // its last event
	Shared       *slot.Position `json:"shared"`           // the last one that the present history has too
	Alone        *slot.Position `json:"alone,omitempty"`  // after it the copy acknowledged alone
	Count        *AsideCount    `json:"count"`            // what it has alone
	Unread       []string       `json:"unread,omitempty"` // what could not be read: there may be more
	Trouble      string         `json:"trouble,omitempty"`
	Dismissed    *AsideSeen     `json:"dismissed,omitempty"`

	List []AsideMessage `json:"list,omitempty"` // in `rescue show` only; Count says how many there are
}

// AsideCount counts what a state has alone.
type AsideCount struct {
	Messages   int   `json:"messages"`
	Users      int   `json:"users"`
	Folders    int   `json:"folders"`
	Bytes      int64 `json:"bytes"`
	NoBody     int   `json:"no_body"` // of the messages: their body is not there
	NewUsers   int   `json:"new_users"`
	NewFolders int   `json:"new_folders"`
	// Changed counts accounts with a password, quota or state that the present
	// history lacks; ChangedUsers has the first few.
	Changed      int      `json:"changed"`
	ChangedUsers []string `json:"changed_users,omitempty"`
}

// AsideSeen says who has looked at a state.
type AsideSeen struct {
	By   string `json:"by"`
	Why  string `json:"why,omitempty"`
	When string `json:"when"` // wall clock, shown only
}

// AsideMessage is a message that the present history never saw.
type AsideMessage struct {
	Address   slot.Address `json:"address"`
	Mailbox   string       `json:"mailbox"`
	UID       uint32       `json:"uid"`
	Date      string       `json:"date"` // internal date, UTC
	Bytes     int64        `json:"bytes"`
	MessageID string       `json:"message_id,omitempty"`
	GUID      string       `json:"guid"` // SHA-256 of the body
	Body      bool         `json:"body"` // it is there
}

// DismissAside says that a person has looked at the states that a slot or a name
// means. By is filled in by the server.
type DismissAside struct {
	What string `json:"what"`
	Why  string `json:"why,omitempty"`
	By   string `json:"-"`
}

// AsidePrefix begins the names of states that were set aside.
const AsidePrefix = "diverged-"

// rescueWhat checks a slot's or a state's name.
func rescueWhat(what string) error {
	if strings.HasPrefix(what, AsidePrefix) {
		return nil
	}
	if _, err := slot.ParseID(what); err != nil {
		return &Error{Text: fmt.Sprintf("find state %q: want a slot, such as s007, or a name of `mailnode rescue list`", what), Exit: ExitUsage, Next: "mailnode rescue list"}
	}
	return nil
}

func (s *Server) rescueRoutes(mux *http.ServeMux) {
	whole := func(a Asides, err error) (Asides, error) {
		a.States = orEmpty(a.States)
		return a, err
	}
	mux.Handle("GET /v1/rescue", read(s, func(ctx context.Context, _ *http.Request) (Asides, error) {
		return whole(s.backend.Rescuing.Asides(ctx))
	}))
	mux.Handle("GET /v1/rescue/{what}", read(s, func(ctx context.Context, r *http.Request) (Asides, error) {
		what := r.PathValue("what")
		if err := rescueWhat(what); err != nil {
			return Asides{}, err
		}
		most, err := strconv.Atoi(r.URL.Query().Get("max"))
		if err != nil || most < 0 {
			return Asides{}, &Error{Text: "show what is set aside: max: want a number", Exit: ExitUsage}
		}
		got, err := whole(s.backend.Rescuing.ShowAside(ctx, what, most))
		if err == nil && len(got.States) == 0 && len(got.Unknown) == 0 {
			err = &Error{Text: fmt.Sprintf("nothing of %q is set aside", what), Exit: ExitNothing, Next: "mailnode rescue list"}
		}
		return got, err
	}))
	mux.Handle("POST /v1/rescue/dismiss", change(s, "dismiss what is set aside", requestTimeout, func(ctx context.Context, q DismissAside, by string) (Asides, error) {
		if err := rescueWhat(q.What); err != nil {
			return Asides{}, err
		}
		q.By = by
		return whole(s.backend.Rescuing.DismissAside(ctx, q))
	}))
}

// Asides lists the states that are set aside on all nodes.
func (c *Client) Asides(ctx context.Context) (a Asides, err error) {
	return a, c.get(ctx, "/v1/rescue", &a)
}

// Aside lists what the states of a slot, or those of a name, have alone: at most
// so many messages of each.
func (c *Client) Aside(ctx context.Context, what string, messagesMax int) (a Asides, err error) {
	return a, c.get(ctx, fmt.Sprintf("/v1/rescue/%s?max=%d", url.PathEscape(what), messagesMax), &a)
}

// DismissAside notes that a person has looked, and returns the states that it was
// noted for.
func (c *Client) DismissAside(ctx context.Context, r DismissAside) (a Asides, err error) {
	return a, c.post(ctx, "/v1/rescue/dismiss", r, &a)
}
