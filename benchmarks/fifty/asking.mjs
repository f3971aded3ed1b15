/**
 * What the two Node sides share: questions asked so many at once, each timed by one clock.
 *
 * `answer(question, clock)` resolves with what came back; `clock()` says how many milliseconds have
 * passed since the question was asked.
 */

/** Ask every question with up to `atOnce` in flight; milliseconds for all, and the answers. */
export async function askAll(questions, atOnce, answer) {
  const answers = new Array(questions.length);
  let begun = 0;
  const start = performance.now();
  const worker = async () => {
    while (begun < questions.length) {
      const index = begun++;
      const asked = performance.now();
      answers[index] = await answer(questions[index], () => performance.now() - asked);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, questions.length) }, worker));
  return { wallMs: performance.now() - start, answers };
}
