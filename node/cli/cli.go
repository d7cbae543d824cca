// Package cli is the mailnode command: one file per verb. A verb reads its
// flags, asks the node (package admin) and prints; it decides nothing.
//
// Every verb keeps to LAWS §8: exit codes, --json for what reads, saying first
// what will be changed, questions on a terminal only.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"mailnode/node/admin"
	"mailnode/node/config"
)

// version is the release: the linker sets it (-X mailnode/node/cli.version=…).
var version = "dev"

// Serve runs one node until ctx ends; ready is called when everything is open.
type Serve func(ctx context.Context, c config.Config, log *slog.Logger, version string, ready func()) error

// app is one call of the command.
type app struct {
	in    io.Reader
	out   io.Writer
	err   io.Writer
	serve Serve

	socket string // --socket
	yes    bool   // --yes
	asJSON bool   // --json
}

// Run does what args (without the program's name) say and returns the exit code.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, serve Serve) int {
	a := &app{in: stdin, out: stdout, err: stderr, serve: serve}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.finish(root.Execute())
}

// finish prints an error, one line and the next command, and returns its code.
func (a *app) finish(err error) int {
	var refusal *admin.Error
	var code exitCode
	switch {
	case err == nil:
		return admin.ExitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &refusal):
		fmt.Fprintf(a.err, "mailnode: %s\n", err)
		if refusal.Next != "" {
			fmt.Fprintf(a.err, "  next: %s\n", refusal.Next)
		}
		return refusal.Exit
	}
	fmt.Fprintf(a.err, "mailnode: %s\n", err)
	return admin.ExitFailed
}

// exitCode is an error whose text has been printed already.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usage is a wrong call.
func usage(format string, args ...any) error {
	return &admin.Error{Text: fmt.Sprintf(format, args...), Exit: admin.ExitUsage}
}

func (a *app) root() *cobra.Command {
	root := group("mailnode", "A replicated mail store: IMAP and LMTP in front, copies on other servers behind",
		a.demo(), a.serveVerb(), a.cluster(), a.status(), a.failover(), a.incident(), a.rescue(), a.slotVerb(), a.job(), a.user(), a.config(), a.version())
	root.PersistentFlags().StringVar(&a.socket, "socket", socketPreset(), "admin socket of the node; MAILNODE_SOCKET does the same")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [VERB]", Short: "What a verb does", Args: cobra.ArbitraryArgs, RunE: func(c *cobra.Command, args []string) error {
		verb, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usage("help: unknown verb %q; there are: %s", strings.Join(args, " "), strings.Join(verbNames(root), ", "))
		}
		return verb.Help()
	}})
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%s%s; its flags: %s", prefix(c), err, strings.Join(flagNames(c), ", "))
	})
	return root
}

func socketPreset() string {
	if s := os.Getenv("MAILNODE_SOCKET"); s != "" {
		return s
	}
	return admin.DefaultSocket
}

// group is a verb that only has verbs below it.
func group(name, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	c.AddCommand(verbs...)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 && !c.HasParent() {
			return c.Help()
		}
		return unknownVerb(c, args)
	}
	return c
}

func unknownVerb(c *cobra.Command, args []string) error {
	there := strings.Join(verbNames(c), ", ")
	if len(args) == 0 {
		return usage("%ssay what to do: %s", prefix(c), there)
	}
	return usage("%sunknown verb %q; there are: %s", prefix(c), args[0], there)
}

// prefix names a verb at the start of an error, which has "mailnode: " already.
func prefix(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") + ": "
}

func verbNames(c *cobra.Command) []string {
	var names []string
	for _, v := range c.Commands() {
		if !v.Hidden && v.Name() != "help" && v.Name() != "completion" {
			names = append(names, v.Name())
		}
	}
	return names
}

func flagNames(c *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) {
		if name := "--" + f.Name; !f.Hidden && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	c.Flags().VisitAll(add)
	c.InheritedFlags().VisitAll(add)
	return names
}

// verb makes a verb. names are its arguments as Use writes them, such as "ADDRESS".
func (a *app) verb(name string, names []string, short string, run func(ctx context.Context, args []string) error) *cobra.Command {
	c := &cobra.Command{Use: strings.Join(append([]string{name}, names...), " "), Short: short}
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	c.Args = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage("%s%s is missing", prefix(c), strings.Join(names[len(args):least], " and "))
		case len(args) > len(names):
			return usage("%s%q is one argument too many", prefix(c), args[len(names)])
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error { return run(c.Context(), args) }
	return c
}

// reads adds --json to a verb.
func (a *app) reads(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.asJSON, "json", false, "print JSON, for programs")
	return c
}

// changes adds --yes to a verb.
func (a *app) changes(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) client() *admin.Client { return admin.NewClient(a.socket) }

// show prints v as JSON, or text.
func (a *app) show(v any, text func() string) error {
	if !a.asJSON {
		_, err := io.WriteString(a.out, text())
		return err
	}
	return json.NewEncoder(a.out).Encode(v)
}

// showPlan prints what is about to be done. With --json it goes to standard error:
// standard output is the program's.
func (a *app) showPlan(text string) error {
	to := a.out
	if a.asJSON {
		to = a.err
	}
	_, err := io.WriteString(to, text)
	return err
}

// say prints one line about what is or will be done.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

// isTerminal reports whether a person is at the other end.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
