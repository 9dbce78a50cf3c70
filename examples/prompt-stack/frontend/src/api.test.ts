import { expect, test, vi } from "vitest";
import { createPrompt, fillPrompt, listPrompts, Refused } from "./api";

function answering(status: number, body: unknown) {
  return vi.spyOn(globalThis, "fetch").mockResolvedValue(Response.json(body, { status }));
}

test("listPrompts reads the list", async () => {
  const fetched = answering(200, []);
  expect(await listPrompts()).toEqual([]);
  expect(fetched).toHaveBeenCalledWith("/api/prompts", {});
});

test("fillPrompt posts the values", async () => {
  const fetched = answering(200, { text: "Explain tides" });
  expect(await fillPrompt(7, { topic: "tides" })).toBe("Explain tides");
  expect(fetched.mock.calls[0]?.[0]).toBe("/api/prompts/7/fill");
  expect(fetched.mock.calls[0]?.[1]?.body).toBe('{"values":{"topic":"tides"}}');
});

test.each([
  [409, { detail: "there is a prompt named ask" }, "there is a prompt named ask"],
  [422, { detail: [{ loc: ["body", "name"], msg: "too long" }] }, "name: too long"],
  [500, null, "/prompts answered 500"],
])("a refusal with status %i says why", async (status, body, message) => {
  answering(status, body);
  await expect(createPrompt("ask", "Why?")).rejects.toEqual(new Refused(message));
});
