package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// measureCache: a gigabyte in 50,000 files, saved and restored by actions/cache, beside what actions/cache does
// with the same files on a hosted runner.
func measureCache(ctx context.Context, b *bench) error {
	for _, tool := range []string{"tar", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	folders := b.size(50, 2)
	// Bytes at random, as in archives and images; 20 KiB a file, 1,000 files a folder.
	fill := fmt.Sprintf(`for i in $(seq %d); do mkdir -p cached/$i; head -c 20480000 /dev/urandom | split -b 20480 -a 3 - cached/$i/; done`, folders)
	cache := "name: Cache\nuses: actions/cache@v4\nwith:\n  path: cached\n  key: bench-${{ vars.round }}"
	count := fmt.Sprintf(`run: test "$(find cached -type f | wc -l)" = %d`, folders*1000)
	r, err := b.newRepository(ctx, "cache", map[string]string{
		".github/workflows/save.yml":    onPush("save", "", cache, "run: "+fill),
		".github/workflows/restore.yml": onPush("restore", "", cache, count),
	})
	if err != nil {
		return err
	}
	plain := filepath.Join(b.dir, "plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		return err
	}
	if _, err := b.spawn(ctx, plain, nil, "bash", "-e", "-c", fill); err != nil {
		return err
	}

	round := 0
	saving := contestant{name: "save", run: func(ctx context.Context) (sample, error) {
		round++
		return b.step("save", r, "Post Cache", "-W", ".github/workflows/save.yml", "--var", fmt.Sprintf("round=%d", round)).run(ctx)
	}}
	const pack = "tar --posix -cf cached.tzst --use-compress-program zstdmt cached"
	const unpack = "mkdir restored && tar -xf cached.tzst --use-compress-program unzstd -C restored"
	restored := filepath.Join(plain, "restored")
	unpacking := b.plain("unpack", plain, unpack)
	unpacking.before = func() error { return os.RemoveAll(restored) }
	renaming := b.plain("rename", plain, "mv cached moved && mv moved cached")

	slow := *b // a gigabyte a run
	slow.runs = min(b.runs, 3)
	got, err := slow.interleave(ctx,
		saving, b.plain("pack", plain, pack), renaming,
		b.step("restore", r, "Cache", "-W", ".github/workflows/restore.yml", "--var", "round=1"), unpacking,
	)
	if err != nil {
		return err
	}
	size := fmt.Sprintf("%d MB in %d files", folders*1000*20480/1_000_000, folders*1000)
	b.atMost("restore a cache, "+size, got[3], "zstd and tar "+millis(got[4].wall), 50*time.Millisecond)
	b.over("save a cache, "+size, got[0], got[2], 1, "tar and zstd "+millis(got[1].wall)+", mv", 10*time.Millisecond)
	return nil
}

// measureWorkspace: what a large repository adds to a run that checks it out.
func measureWorkspace(ctx context.Context, b *bench) error {
	count := b.size(50_000, 2_000)
	source := onPush("look", "", "uses: actions/checkout@v4", "run: test -f src/00/000.txt")
	small := tree("src", 10, 300)
	small[".github/workflows/look.yml"] = source
	few, err := b.newRepository(ctx, "few", small)
	if err != nil {
		return err
	}
	large := tree("src", count, 300)
	large[".github/workflows/look.yml"] = source
	many, err := b.newRepository(ctx, "many", large)
	if err != nil {
		return err
	}
	target := filepath.Join(b.dir, "copy")
	copying := b.command("cp", b.dir, "cp", "-a", many.dir, target)
	copying.before = func() error { return os.RemoveAll(target) }
	got, err := b.interleave(ctx, b.ours("many", many), b.ours("few", few), copying)
	if err != nil {
		return err
	}
	act, err := b.acts(many).once(ctx) // a minute and more, so once
	if err != nil {
		return err
	}
	b.over(fmt.Sprintf("checkout of %d files", count), got[0], got[1], 1,
		fmt.Sprintf("act %s, cp -a %s, the same with 10 files", millis(act.wall), millis(got[2].wall)), 50*time.Millisecond)
	return nil
}
