package build

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// sourcesAt is where the trees that are copied from lie in the container that is copied in.
const sourcesAt = "/.penstock-build"

// changeFiles carries out COPY, ADD and WORKDIR: in a container on the tree so far, out of which no link leads.
func (w *work) changeFiles(ctx context.Context, op *pb.FileOp, inputs []*result) (layer.ID, error) {
	m, err := w.open(ctx)
	if err != nil {
		return "", err
	}
	on, err := w.layered(ctx, root(&pb.Op{Op: &pb.Op_File{File: op}}, inputs))
	if err != nil {
		return "", err
	}
	var actions []agent.FileAction
	var mounts []sandbox.Mount
	for i, a := range op.Actions {
		if i > 0 && int(a.Input) != len(inputs)+i-1 {
			return "", fmt.Errorf("a step that changes several trees at once %w", errUnsupported)
		}
		action, err := fileAction(a)
		if err != nil {
			return "", err
		}
		if a.GetCopy() != nil {
			if a.SecondaryInput >= int64(len(inputs)) {
				return "", fmt.Errorf("a copy of what the step itself makes %w", errUnsupported)
			}
			from, err := w.layered(ctx, input(inputs, a.SecondaryInput))
			if err != nil {
				return "", err
			}
			at, err := w.show(ctx, m, from)
			if err != nil {
				return "", err
			}
			action.Root = fmt.Sprintf("%s/%d", sourcesAt, i)
			mounts = append(mounts, sandbox.Mount{Target: action.Root, Source: at, ReadOnly: true})
		}
		actions = append(actions, action)
	}
	layers, err := w.stack(on.layers(), maxStack)
	if err != nil {
		return "", err
	}
	c, err := m.(sandbox.Hosting).Contain(ctx, sandbox.Container{Name: "build", Image: sandbox.Image{Ref: buildRef, Layers: layers}, Mounts: mounts})
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err := c.(sandbox.Builder).Files(ctx, actions); err != nil {
		return "", err
	}
	return w.changes(ctx, c, on)
}

// fileAction translates an action.
func fileAction(a *pb.FileAction) (agent.FileAction, error) {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		c := a.Copy
		return agent.FileAction{
			Kind: agent.FileCopy, Path: c.Dest, From: c.Src, Mode: int(c.Mode), ModeText: c.ModeStr, Owner: owner(c.Owner), Time: c.Timestamp,
			Parents: c.CreateDestPath, Wildcard: c.AllowWildcard, EmptyOK: c.AllowEmptyWildcard, Contents: c.DirCopyContents, Follow: c.FollowSymlink,
			Unpack: c.AttemptUnpackDockerCompatibility, Replace: c.AlwaysReplaceExistingDestPaths, Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
		}, nil
	case *pb.FileAction_Mkdir:
		d := a.Mkdir
		return agent.FileAction{Kind: agent.FileMkdir, Path: d.Path, Mode: int(d.Mode), Owner: owner(d.Owner), Time: d.Timestamp, Parents: d.MakeParents}, nil
	case *pb.FileAction_Mkfile:
		f := a.Mkfile
		return agent.FileAction{Kind: agent.FileMkfile, Path: f.Path, Data: string(f.Data), Mode: int(f.Mode), Owner: owner(f.Owner), Time: f.Timestamp}, nil
	case *pb.FileAction_Rm:
		return agent.FileAction{Kind: agent.FileRemove, Path: a.Rm.Path, NotFoundOK: a.Rm.AllowNotFound, Wildcard: a.Rm.AllowWildcard}, nil
	case *pb.FileAction_Symlink:
		return agent.FileAction{Kind: agent.FileLink, Path: a.Symlink.Newpath, From: a.Symlink.Oldpath, Owner: owner(a.Symlink.Owner), Time: a.Symlink.Timestamp}, nil
	}
	return agent.FileAction{}, fmt.Errorf("a change of files of this kind %w", errUnsupported)
}

// owner writes an owner as user:group.
func owner(o *pb.ChownOpt) string {
	text := func(u *pb.UserOpt) string {
		switch u := u.GetUser().(type) {
		case *pb.UserOpt_ByName:
			return u.ByName.GetName()
		case *pb.UserOpt_ByID:
			return fmt.Sprint(u.ByID)
		}
		return ""
	}
	user, group := text(o.GetUser()), text(o.GetGroup())
	if group != "" {
		return user + ":" + group
	}
	return user
}
