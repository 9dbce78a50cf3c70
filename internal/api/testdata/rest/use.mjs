// Calls the REST API as octokit does, and holds each answer to GitHub's own description of it. The last line that it
// prints is what it saw, as JSON.
import { Octokit } from "@octokit/rest";
import * as github5 from "github-5";
import * as github6 from "github-6";
import * as github9 from "github-9";
import { check, checked, faults, refused } from "./described.mjs";

const { GITHUB_API_URL: baseUrl, TOKEN: auth, BASE: base, HEAD: head } = process.env;
const [owner, repo] = process.env.GITHUB_REPOSITORY.split("/");
const octokit = new Octokit({ baseUrl, auth });
octokit.hook.after("request", (response, options) => check(options, response));
const here = { owner, repo };
const saw = {};

const { data: pull } = await octokit.rest.pulls.get({ ...here, pull_number: 1 });
saw.pull = [pull.title, pull.commits, pull.changed_files, pull.additions, pull.deletions, pull.labels.length, pull.head.sha === head];
saw.pulls = (await octokit.rest.pulls.list(here)).data.map((p) => p.number);
saw.files = (await octokit.rest.pulls.listFiles({ ...here, pull_number: 1 })).data.map((f) => [f.filename, f.status, f.patch?.split("\n")[0]]);
saw.commits = (await octokit.rest.pulls.listCommits({ ...here, pull_number: 1 })).data.map((c) => c.commit.message);
saw.diff = (await octokit.rest.pulls.get({ ...here, pull_number: 1, mediaType: { format: "diff" } })).data.split("\n")[0];

await octokit.rest.repos.get(here);
await octokit.rest.users.getAuthenticated().catch((e) => faults.push(`user: ${e.message}`));
await octokit.rest.rateLimit.get();
saw.branches = (await octokit.rest.repos.listBranches(here)).data.map((b) => b.name).sort();
saw.branch = (await octokit.rest.repos.getBranch({ ...here, branch: "topic/one" })).data.commit.sha === head;
saw.tags = (await octokit.rest.repos.listTags(here)).data.map((t) => t.name);
saw.content = Buffer.from((await octokit.rest.repos.getContent({ ...here, path: "src/a b.txt", ref: "topic/one" })).data.content, "base64").toString();
saw.folder = (await octokit.rest.repos.getContent({ ...here, path: "", ref: head })).data.map((e) => [e.name, e.type]);
saw.raw = (await octokit.rest.repos.getContent({ ...here, path: "README.md", mediaType: { format: "raw" } })).data;
saw.readme = (await octokit.rest.repos.getReadme(here)).data.path;
saw.climbs = await refused(octokit.request("GET /repos/{owner}/{repo}/contents/{path}", { ...here, path: "../../etc/passwd" }));
saw.list = (await octokit.rest.repos.listCommits({ ...here, sha: "topic/one", path: "src" })).data.map((c) => c.commit.message);
const { data: commit } = await octokit.rest.repos.getCommit({ ...here, ref: "topic/one" });
saw.commit = [commit.sha === head, commit.stats, commit.files.map((f) => f.filename)];
const { data: compared } = await octokit.rest.repos.compareCommitsWithBasehead({ ...here, basehead: "main...topic/one" });
saw.compared = [compared.status, compared.ahead_by, compared.behind_by, compared.files.length, compared.merge_base_commit.sha === base];
saw.tree = (await octokit.rest.git.getTree({ ...here, tree_sha: head, recursive: "1" })).data.tree.map((t) => t.path);
const blob = (await octokit.rest.git.getTree({ ...here, tree_sha: head })).data.tree.find((t) => t.path === "README.md");
saw.blob = Buffer.from((await octokit.rest.git.getBlob({ ...here, file_sha: blob.sha })).data.content, "base64").toString();
await octokit.rest.git.getCommit({ ...here, commit_sha: head });
saw.walks = await refused(octokit.rest.repos.getCommit({ ...here, ref: "main~1" }));

await octokit.rest.repos.createCommitStatus({ ...here, sha: head, state: "pending", context: "ci/test" });
await octokit.rest.repos.createCommitStatus({ ...here, sha: head, state: "success", context: "ci/test", target_url: "https://ci.example.com/1" });
const { data: combined } = await octokit.rest.repos.getCombinedStatusForRef({ ...here, ref: "topic/one" });
saw.status = [combined.state, combined.total_count, combined.statuses[0].target_url];
saw.statuses = (await octokit.rest.repos.listCommitStatusesForRef({ ...here, ref: head })).data.map((s) => s.state);
saw.badState = await refused(octokit.rest.repos.createCommitStatus({ ...here, sha: head, state: "fine" }));

const { data: run } = await octokit.rest.checks.create({ ...here, name: "lint", head_sha: head, status: "in_progress" });
const annotation = { path: "src/a b.txt", start_line: 1, end_line: 1, annotation_level: "warning", message: "too long" };
await octokit.rest.checks.update({
  ...here, check_run_id: run.id, conclusion: "failure", output: { title: "Lint", summary: "one fault", annotations: [annotation] },
});
const { data: done } = await octokit.rest.checks.get({ ...here, check_run_id: run.id });
saw.check = [done.status, done.conclusion, done.output.title, done.output.annotations_count];
saw.annotations = (await octokit.rest.checks.listAnnotations({ ...here, check_run_id: run.id })).data.map((a) => a.message);
saw.checks = (await octokit.rest.checks.listForRef({ ...here, ref: "topic/one" })).data.total_count;

const { data: issue } = await octokit.rest.issues.create({ ...here, title: "A fault", body: "It fails", labels: ["bug"] });
const { data: comment } = await octokit.rest.issues.createComment({ ...here, issue_number: issue.number, body: "first" });
await octokit.rest.issues.updateComment({ ...here, comment_id: comment.id, body: "changed" });
await octokit.rest.issues.getComment({ ...here, comment_id: comment.id });
await octokit.rest.issues.createComment({ ...here, issue_number: 1, body: "on the pull request" });
for (let i = 0; i < 4; i++) await octokit.rest.issues.createComment({ ...here, issue_number: issue.number, body: `more ${i}` });
saw.comments = (await octokit.paginate(octokit.rest.issues.listComments, { ...here, issue_number: issue.number, per_page: 2 })).map((c) => c.body);
await octokit.rest.issues.deleteComment({ ...here, comment_id: comment.id });
saw.deleted = await refused(octokit.rest.issues.getComment({ ...here, comment_id: comment.id }));
await octokit.rest.issues.createLabel({ ...here, name: "needs work", color: "ff0000" });
saw.twice = await refused(octokit.rest.issues.createLabel({ ...here, name: "needs work" }));
await octokit.rest.issues.getLabel({ ...here, name: "needs work" });
await octokit.rest.issues.addLabels({ ...here, issue_number: issue.number, labels: ["needs work"] });
await octokit.rest.issues.removeLabel({ ...here, issue_number: issue.number, name: "bug" });
saw.labels = (await octokit.rest.issues.listLabelsOnIssue({ ...here, issue_number: issue.number })).data.map((l) => [l.name, l.color]);
await octokit.rest.issues.addAssignees({ ...here, issue_number: issue.number, assignees: ["mona"] });
await octokit.rest.issues.update({ ...here, issue_number: issue.number, state: "closed", state_reason: "completed" });
saw.open = (await octokit.rest.issues.listForRepo(here)).data.map((i) => [i.number, !!i.pull_request]);
saw.all = (await octokit.rest.issues.listForRepo({ ...here, state: "all" })).data.length;
saw.empty = await refused(octokit.rest.issues.createComment({ ...here, issue_number: 1, body: "" }));
saw.unknown = await refused(octokit.rest.issues.get({ ...here, issue_number: 4000 }));
await octokit.rest.reactions.createForIssueComment({ ...here, comment_id: (await octokit.rest.issues.listCommentsForRepo(here)).data[0].id, content: "rocket" });
await octokit.rest.repos.createCommitComment({ ...here, commit_sha: head, body: "a word" });
await octokit.rest.pulls.createReview({ ...here, pull_number: 1, event: "APPROVE", body: "good" });
saw.reviews = (await octokit.rest.pulls.listReviews({ ...here, pull_number: 1 })).data.map((r) => r.state);
await octokit.rest.pulls.requestReviewers({ ...here, pull_number: 1, reviewers: ["hubot"] });
saw.again = await refused(octokit.rest.pulls.create({ ...here, title: "again", head: "topic/one", base: "main" }));
saw.same = await refused(octokit.rest.pulls.create({ ...here, title: "same", head: "main", base: "main" }));

await octokit.rest.git.createRef({ ...here, ref: "refs/heads/made/here", sha: base });
await octokit.rest.git.updateRef({ ...here, ref: "heads/made/here", sha: head });
saw.ref = (await octokit.rest.git.getRef({ ...here, ref: "heads/made/here" })).data.object.sha === head;
saw.back = await refused(octokit.rest.git.updateRef({ ...here, ref: "heads/made/here", sha: base }));
saw.matching = (await octokit.rest.git.listMatchingRefs({ ...here, ref: "heads/ma" })).data.map((r) => r.ref);
saw.badRef = await refused(octokit.rest.git.createRef({ ...here, ref: "refs/heads/a..b", sha: base }));
await octokit.rest.git.deleteRef({ ...here, ref: "heads/made/here" });
const file = { ...here, path: "deep/er/new.txt", branch: "topic/one", content: Buffer.from("new\n").toString("base64"), message: "write a file" };
const { data: written } = await octokit.rest.repos.createOrUpdateFileContents(file);
saw.unasked = await refused(octokit.rest.repos.createOrUpdateFileContents(file));
saw.written = Buffer.from((await octokit.rest.repos.getContent({ ...here, path: "deep/er/new.txt", ref: "topic/one" })).data.content, "base64").toString();
await octokit.rest.repos.deleteFile({ ...here, path: "deep/er/new.txt", branch: "topic/one", sha: written.content.sha, message: "remove it" });
saw.removed = (await octokit.rest.git.getTree({ ...here, tree_sha: "topic/one", recursive: "1" })).data.tree.map((t) => t.path);

const { data: release } = await octokit.rest.repos.createRelease({ ...here, tag_name: "v2.0.0", name: "Two", generate_release_notes: true });
saw.release = [release.tag_name, release.draft, release.body.split("\n")[0]];
await octokit.rest.repos.uploadReleaseAsset({ ...here, release_id: release.id, name: "a b.txt", data: "the file", headers: { "content-type": "text/plain" }, baseUrl: undefined, url: release.upload_url }).catch((e) => faults.push(`asset: ${e.message}`));
const { data: assets } = await octokit.rest.repos.listReleaseAssets({ ...here, release_id: release.id });
saw.asset = [assets[0].name, assets[0].size, assets[0].content_type];
saw.bytes = Buffer.from((await octokit.rest.repos.getReleaseAsset({ ...here, asset_id: assets[0].id, headers: { accept: "application/octet-stream" } })).data).toString();
saw.latest = (await octokit.rest.repos.getLatestRelease(here)).data.id === release.id;
saw.byTag = (await octokit.rest.repos.getReleaseByTag({ ...here, tag: "v2.0.0" })).data.id === release.id;
saw.tagMade = (await octokit.rest.git.getRef({ ...here, ref: "tags/v2.0.0" })).data.object.sha === base;
saw.releaseTwice = await refused(octokit.rest.repos.createRelease({ ...here, tag_name: "v2.0.0" }));
await octokit.rest.repos.updateRelease({ ...here, release_id: release.id, prerelease: true });
saw.releases = (await octokit.rest.repos.listReleases(here)).data.map((r) => [r.name, r.prerelease]);
await octokit.rest.repos.deleteRelease({ ...here, release_id: release.id });

const { data: deployment } = await octokit.rest.repos.createDeployment({ ...here, ref: "main", environment: "preview", auto_merge: false, required_contexts: [] });
await octokit.rest.repos.createDeploymentStatus({ ...here, deployment_id: deployment.id, state: "success", environment_url: "https://p.example.com" });
saw.deployments = (await octokit.rest.repos.listDeployments({ ...here, environment: "preview" })).data.map((d) => d.ref);
saw.deploymentStates = (await octokit.rest.repos.listDeploymentStatuses({ ...here, deployment_id: deployment.id })).data.map((s) => [s.state, s.environment_url]);

saw.elsewhere = await refused(octokit.rest.repos.get({ owner: "octo", repo: "other" }));
saw.noRoute = await refused(octokit.request("GET /repos/{owner}/{repo}/vulnerability-alerts", here));
saw.nobody = await refused(new Octokit({ baseUrl, auth: "wrong" }).rest.repos.get(here));
saw.broken = await refused(octokit.request("POST /repos/{owner}/{repo}/issues", { ...here, data: "{", headers: { "content-type": "application/json" } }));
const first = await fetch(`${baseUrl}/repos/${owner}/${repo}`, { headers: { authorization: `Bearer ${auth}` } });
const second = await fetch(`${baseUrl}/repos/${owner}/${repo}`, { headers: { authorization: `Bearer ${auth}`, "if-none-match": first.headers.get("etag") } });
saw.etag = second.status;

// The clients of actions, in three majors.
saw.majors = [];
for (const github of [github5, github6, github9]) {
  const client = github.getOctokit(auth);
  const { data } = await client.rest.issues.createComment({ ...github.context.repo, issue_number: 1, body: "by @actions/github" });
  saw.majors.push([data.user.login, data.body]);
}
saw.graphql = await github6.getOctokit(auth).graphql("query { viewer { login } }").then(() => "answered", (e) => e.errors?.[0]?.type ?? e.message);
console.log(JSON.stringify({ saw, faults, checked }));
